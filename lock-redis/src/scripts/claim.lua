-- A claim, second half: grants, enqueues or answers busy, as the lock table does.
--
-- Invariant: whatever is granted or enqueued belongs to a session that lives and to a claim that was not withdrawn, both
-- checked here. A claim sent again finds its own grant or its own place.
--
-- ARGV[1]: KEEP TICKET WEIGHT CAPACITY WAIT KIND TIME;MODE NOTE;NAME: for how long the record is kept (ms), and the claim. One
-- argument, for each costs time also where nobody reads it.
local keep, ticket, weight, capacity, wait, kind, time, rest, name =
  string.match(ARGV[1], '^(%d+) (%d+) (%d+) (%d+) (%d) (%a) (%d+);([^;]*);([^;]*)$')
local session = string.match(KEYS[1], '(%x+)$')
local claim = { session = session, ticket = ticket, weight = tonumber(weight), capacity = tonumber(capacity), kind = kind,
  time = tonumber(time), rest = rest }
local id = session .. ' ' .. ticket

local own = redis.call('GET', KEYS[1])
if not own then return { 'ended' } end
if string.byte(own) ~= 45 and redis.call('SISMEMBER', prefix .. 't:' .. session, ticket) == 1 then
  return { 'withdrawn' }
end

local record = read(name)
-- Somebody deleted the record, or its last holder died long ago: nobody holds, so nobody can be waiting for them.
if not record.known then redis.call('DEL', record.queue, record.waiters) end

local function already()
  for _, holder in ipairs(record.holders) do
    if holder.session == session and holder.ticket == ticket then
      if holder.kind == 'r' or (holder.kind == 'f' and holder.till <= now()) then return { 'withdrawn' } end
      return { 'granted', holder.token }
    end
  end
end

local function is_idle() return #record.holders == 0 and record.sequence == 0 end

local function fits()
  return is_idle()
    or (record.sequence == 0 and record.capacity == claim.capacity and held(record) + claim.weight <= claim.capacity)
end

local function grant()
  local token = next_token(record)
  if not token then return { 'exhausted' } end
  record.capacity = claim.capacity
  hold(record, claim, token)
  return { 'granted', digits(token) }
end

local function busy(word, recheck)
  local first = record.holders[1]
  if not first then return { word, recheck or '' } end
  local info = redis.call('GET', prefix .. 's:' .. first.session)
  return { word, recheck or '', first.token, ends_in(first) or '', info or '' }
end

-- How a claim stands that is in the queue. Its own answer says what a notice would.
local function judge()
  local others = {}
  for _, notice in ipairs(record.notices) do
    if not (notice[1] == session and notice[2] == 'r ' .. ticket) then others[#others + 1] = notice end
  end
  record.notices = others
  if head(record) ~= id then return busy('queued') end
  local own = waiter(record, id)
  if own and held(record) + own.weight <= record.capacity then
    -- settle() would have granted it, had there been a token.
    leave(record, id)
    settle(record, nil)
    return { 'exhausted' }
  end
  want_holders(record)
  return busy('queued', next_end(record))
end

local function decide()
  local known = already()
  if known then return known end
  if fits() then return grant() end
  settle(record, head(record))
  known = already()
  if known then return known end
  if record.sequence > 0 and redis.call('ZSCORE', record.queue, id) then
    local answer = judge()
    local first = head(record)
    -- Whoever asks again behind the head has heard nothing for long: its engine finds out whether anybody owns it.
    if first and first ~= id then
      local ahead = waiter(record, first)
      if ahead and ahead.kind == 's' then tell(record, ahead.session, 'w ' .. ahead.ticket .. ' ' .. record.name) end
    end
    return answer
  end
  if not is_idle() and record.capacity ~= claim.capacity then return { 'capacity', digits(record.capacity) } end
  if fits() then return grant() end
  if wait ~= '1' then
    want_holders(record)
    return busy('busy')
  end
  record.sequence, record.changed = record.sequence + 1, true
  redis.call('ZADD', record.queue, record.sequence, id)
  redis.call('HSET', record.waiters, id, weight .. ' ' .. kind .. ' ' .. time .. ' ' .. claim.rest)
  return judge()
end

local answer = decide()
write(record, tonumber(keep))
return answer
