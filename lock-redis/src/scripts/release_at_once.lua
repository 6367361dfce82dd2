-- A release, first half: the claim is the only holder and nobody waits.
--
-- Invariant: the record of a key with a queue says so, so a record that reads as the holder expects has nobody to hand over
-- to. The fence stays, for as long as the record was given before.
--
-- KEYS: session, lock.
-- ARGV: what release.lua reads, then the record that is expected, and the idle one; nothing more if none is expected.
if ARGV[2] then
  local call, lock = redis.call, KEYS[2]
  if call('EXISTS', KEYS[1]) == 1 and call('GET', lock) == ARGV[2] then
    call('SET', lock, ARGV[3], 'KEEPTTL')
    return 1
  end
end
