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
-- The fence first: whoever may not move it writes nothing.
local moved = { 'highest', token > highest and ARGV[2] or marks[1] }
if ARGV[1] == 'exclusive' then
  moved[#moved + 1] = 'exclusive'
  moved[#moved + 1] = ARGV[2]
end
redis.call('HSET', KEYS[1], unpack(moved))
local reply = redis.pcall(unpack(command))
if type(reply) == 'table' and reply.err then
  -- Nothing was written, and so nobody was admitted.
  redis.call('HDEL', KEYS[1], 'highest', 'exclusive')
  if marks[1] then redis.call('HSET', KEYS[1], 'highest', marks[1]) end
  if marks[2] then redis.call('HSET', KEYS[1], 'exclusive', marks[2]) end
  return reply
end
return { 1, reply }
