-- A claim, first half: the key is idle, as its claimant left it.
--
-- Invariant: nothing but a fence stands in an idle record, so a record that reads as the claimant expects has no holder and
-- no queue. The token is then one above that fence, and nobody has to look at the clock. A session whose value begins with
-- '-' lives and has withdrawn no claim.
--
-- KEYS: session, lock.
-- ARGV: expected record ('' if none is), record with this holder, its expiry (ms since 1970), then as for claim.lua.
if ARGV[1] ~= '' then
  local session = redis.call('GET', KEYS[1])
  if session and string.byte(session) == 45 and redis.call('GET', KEYS[2]) == ARGV[1] then
    redis.call('SET', KEYS[2], ARGV[2], 'PXAT', ARGV[3])
    return 1
  end
end
