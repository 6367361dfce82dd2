-- Opens a session, or finds the one that an earlier copy of this call made.
--
-- Invariant: the name is 128 random bits and used once, so a key that is there is this session's. Whoever opens counts from
-- the copy that was answered: so each gives it the whole TTL. Its value is '-' (no claim was withdrawn) and whose it is.
--
-- KEYS: session. ARGV: TTL (ms), whose it is.
mark(latest())
if not redis.call('SET', KEYS[1], '-' .. ARGV[2], 'NX', 'PX', ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return 1
