-- A release, second half: gives back a hold or a place in the queue, and hands over to whoever is next in the same step.
--
-- Invariant: once a release of an uncertain claim has run, no copy of that claim takes effect: the session remembers the
-- ticket, and says so by the first character of its value. What a dead session had needs no such memory.
--
-- ARGV[1]: KEEP TICKET UNCERTAIN;NAME, as for claim.lua.
local keep, ticket, uncertain, name = string.match(ARGV[1], '^(%d+) (%d+) (%d);(.*)$')
local session = string.match(KEYS[1], '(%x+)$')
local id = session .. ' ' .. ticket

if uncertain == '1' and alive(session) then
  redis.call('SETRANGE', KEYS[1], 0, 'w')
  redis.call('SADD', prefix .. 't:' .. session, ticket)
  redis.call('PEXPIRE', prefix .. 't:' .. session, redis.call('PTTL', KEYS[1]) + 1000)
end

local record = read(name)
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
write(record, tonumber(keep))
return released
