-- Runs one command unless the token is stale: a resource in Redis that keeps its own fence.
--
-- Invariant: the marks and the write change in one step. 'highest' is the highest token admitted, 'exclusive' the highest
-- exclusive one. An exclusive grant passes while no higher token was admitted; a shared one or a permit while its token is
-- above the last exclusive one, so that these do not fence each other.
--
-- KEYS: the fence (a hash), then every key of the command. ARGV: 'exclusive' or 'shared', the token, then the command.
-- Returns { 1, the command's reply } or { 0, the token admitted before }.
local marks = redis.call('HMGET', KEYS[1], 'highest', 'exclusive')
local highest, exclusive = tonumber(marks[1] or 0), tonumber(marks[2] or 0)
local token = tonumber(ARGV[2])
if ARGV[1] == 'exclusive' then
  if token < highest then return { 0, string.format('%.0f', highest) } end
else
  if token <= exclusive then return { 0, string.format('%.0f', exclusive) } end
end
local command = {}
for place = 3, #ARGV do command[#command + 1] = ARGV[place] end
-- The write first: one that fails leaves the fence as it was.
local reply = redis.call(unpack(command))
if token > highest then redis.call('HSET', KEYS[1], 'highest', ARGV[2]) end
if ARGV[1] == 'exclusive' and token > exclusive then redis.call('HSET', KEYS[1], 'exclusive', ARGV[2]) end
return { 1, reply }
