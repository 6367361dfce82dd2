-- Renews a session, and says of each claim how it stands: a token, 'w' and when to ask again, '' for one that is not known, or
-- '?' where that cannot be said: a key that somebody has damaged is no matter of the session's other claims.
--
-- Invariant: a session that is over stays over: only a key that exists is given more time. What is answered is read here,
-- from the records, so that a session which goes on renewing hears of a grant that the server has lost.
--
-- KEYS: session. ARGV: TTL (ms), how long records are kept (ms), then for each claim its ticket, the key's name, and whether its
-- record is to be kept for longer (1) or was not long ago (0).
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then return false end
local session = string.match(KEYS[1], '(%x+)$')
mark(latest())
if redis.call('GETRANGE', KEYS[1], 0, 0) ~= '-' then
  redis.call('PEXPIRE', prefix .. 't:' .. session, ARGV[1] + 1000)
end
local keys = {}
for place = 4, #ARGV, 3 do keys[#keys + 1] = prefix .. 'l:' .. ARGV[place] end
if #keys == 0 then return {} end
local records = redis.call('MGET', unpack(keys))
local ends = digits(math.floor(now() / 1000) + ARGV[2])
local standings = {}

-- Many claims of one session may wait for one key: what does not depend on the claim is looked up once.
local waited = {}
local function look(name)
  local key = waited[name]
  if key then return key end
  key = { record = read(name) }
  -- In a queue that cannot be read nobody waits.
  pcall(function()
    key.first = head(key.record)
    key.soonest = next_end(key.record) or 0
    redis.call('PEXPIREAT', key.record.queue, ends, 'GT')
    redis.call('PEXPIREAT', key.record.waiters, ends, 'GT')
  end)
  waited[name] = key
  return key
end

local function judge(place, ticket, name)
  local text = records[place]
  if not text then return '' end
  local mine = ';' .. session .. ' ' .. ticket .. ' '
  local _, till = string.find(text, mine, 1, true)
  if till then
    local token, kind = string.match(text, '^(%d+) %d+ (%a) ', till + 1)
    if not token then damaged() end
    return kind == 'r' and '' or token
  end
  local key, id = look(name), session .. ' ' .. ticket
  if not key.first or not redis.call('ZSCORE', key.record.queue, id) then return '' end
  if key.soonest == 0 or key.first == id then return 'w' .. digits(key.soonest) end
  return 'w'
end

for place, key in ipairs(keys) do
  local at = 3 + (place - 1) * 3
  local sound, standing = pcall(judge, place, ARGV[at], ARGV[at + 1])
  if not sound then standing = '?' end
  if ARGV[at + 2] == '1' and standing ~= '' then redis.call('PEXPIREAT', key, ends, 'GT') end
  standings[place] = standing
end
return standings
