-- A claim, first half: the key is idle, as its claimant left it.
--
-- Invariant: nothing but a fence stands in an idle record, so a record that reads as the claimant expects has no holder and
-- no queue. The token is then one above that fence, and nobody has to look at the clock. A session whose value begins with
-- '-' lives and has withdrawn no claim. A record that is about to go is not used: it could go while it is held.
--
-- KEYS: session, lock.
-- ARGV: what claim.lua reads, then the record that is expected, the one with this holder, and for how long it has to last (ms);
-- nothing more if none is expected.
if ARGV[2] then
  local call, lock = redis.call, KEYS[2]
  local session = call('GET', KEYS[1])
  if session and string.byte(session) == 45 and call('GET', lock) == ARGV[2] and call('PTTL', lock) >= ARGV[4] + 0 then
    call('SET', lock, ARGV[3], 'KEEPTTL')
    return 1
  end
end
