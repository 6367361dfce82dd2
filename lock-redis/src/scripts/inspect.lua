-- Everything about one key, as it is at one instant: for people. Changes nothing.
--
-- KEYS: lock. ARGV: the key's name.
-- Returns the time (microseconds), the record, then for each waiter its id and what it waits for; and for each session named
-- in either its name, value and time left (ms).
local record = read(ARGV[1])
local queue, sessions, seen = {}, {}, {}
local function see(session)
  if seen[session] then return end
  seen[session] = true
  local key = prefix .. 's:' .. session
  sessions[#sessions + 1] = session
  sessions[#sessions + 1] = redis.call('GET', key)
  sessions[#sessions + 1] = redis.call('PTTL', key)
end
for _, holder in ipairs(record.holders) do see(holder.session) end
if record.sequence > 0 then
  for _, id in ipairs(redis.call('ZRANGE', record.queue, 0, -1)) do
    queue[#queue + 1] = id
    queue[#queue + 1] = redis.call('HGET', record.waiters, id) or ''
    see(string.match(id, '^(%x+)'))
  end
end
return { digits(now()), record.text or false, queue, sessions }
