-- A release, second half: gives back a hold or a place in the queue, and hands over to whoever is next in the same step.
--
-- Invariant: once a release of an uncertain claim has run, no copy of that claim takes effect: the session remembers the
-- ticket, and says so by the first character of its value. What a dead session had needs no such memory.
--
-- ARGV[4]: SESSION TICKET UNCERTAIN; [5]: the key's name; [6], [7]: as for claim.lua.
local session, ticket, uncertain = string.match(ARGV[4], '^(%x+) (%d+) (%d)$')
local id = session .. ' ' .. ticket
local idle, keep = tonumber(ARGV[6]), tonumber(ARGV[7])

if uncertain == '1' and alive(session) then
  redis.call('SETRANGE', KEYS[1], 0, 'w')
  redis.call('SADD', prefix .. 't:' .. session, ticket)
  redis.call('PEXPIRE', prefix .. 't:' .. session, redis.call('PTTL', KEYS[1]) + 1000)
end

local record = read(ARGV[5])
local head_before = head(record)

local function give_back()
  for place, holder in ipairs(record.holders) do
    if holder.session == session and holder.ticket == ticket and holder.kind ~= 'r' then
      local over = holder.till <= now()
      if holder.kind == 's' then over = not alive(session) end
      if holder.kind == 's' and holder.till > now() then
        holder.kind = 'r'
      else
        table.remove(record.holders, place)
      end
      record.changed = true
      return over and 'gone' or 'done'
    end
  end
  if record.sequence > 0 and leave(record, id) then return alive(session) and 'done' or 'gone' end
end

local released = give_back()
if not released then return 'gone' end
if record.sequence > 0 then settle(record, head_before) end
write(record, idle, keep)
return released
