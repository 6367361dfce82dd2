-- Ends a session, and settles the keys on which it may have had a claim.
--
-- Invariant: the session ends first, so that none of its claims is granted by the settling.
--
-- KEYS: session. ARGV: for how long records are kept (ms), then the keys' names.
local session = string.match(KEYS[1], '(%x+)$')
redis.call('DEL', KEYS[1], prefix .. 't:' .. session)
local function settle_one(name)
  local record = read(name)
  if not record.known then return end
  local head_before = head(record)
  if record.sequence > 0 then
    for _, id in ipairs(redis.call('ZRANGE', record.queue, 0, -1)) do
      if string.sub(id, 1, 32) == session then leave(record, id) end
    end
  end
  settle(record, head_before)
  write(record, tonumber(ARGV[1]))
end
-- A key that somebody has damaged keeps none of the others from being handed over.
for place = 2, #ARGV do pcall(settle_one, ARGV[place]) end
return 1
