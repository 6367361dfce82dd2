-- Opens a session, or finds the one that an earlier copy of this call made.
--
-- Invariant: the name is 128 random bits and used once, so a key that is there is this session's, and one that is not was
-- never opened or is over. Its value is '-' (no claim of it was withdrawn) and whose it is.
--
-- KEYS: session. ARGV: TTL (ms), whose it is.
see_clock()
redis.call('SET', KEYS[1], '-' .. ARGV[2], 'NX', 'PX', ARGV[1])
return 1
