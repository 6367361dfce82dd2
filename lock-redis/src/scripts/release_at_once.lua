-- A release, first half: the claim is the only holder and nobody waits.
--
-- Invariant: the record of a key with a queue says so, so a record that reads as the holder expects has nobody to hand over
-- to. An idle record expires once the clock has passed its fence, and not before: the next record's token comes from the
-- clock.
--
-- KEYS: session, lock.
-- ARGV: expected record ('' if none is), idle record, its expiry (ms since 1970), then as for release.lua.
if ARGV[1] ~= '' and redis.call('EXISTS', KEYS[1]) == 1 and redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[2], 'PXAT', ARGV[3])
  return 1
end
