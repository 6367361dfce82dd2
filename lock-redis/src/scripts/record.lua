-- One key's record and queue, for every script that has to look closer.
--
-- The record is a text: the fence alone while the key is idle, otherwise
--   FENCE CAPACITY SEQUENCE;SESSION TICKET TOKEN WEIGHT KIND UNTIL MODE NOTE;...
-- with one part for each holder in the order of the grants. SEQUENCE is 0 while nobody waits. KIND is s (held with its
-- session, and until UNTIL in any case), f (until UNTIL) or r (given back, or orphaned, and kept until UNTIL). Instants are
-- in microseconds. The queue is a sorted set of 'SESSION TICKET' by SEQUENCE, what each waits for stands in a hash beside it.
--
-- Invariant: a session lives as long as its key exists. It is made by open.lua alone, under a name that is never used twice;
-- so whoever finds it gone may take over, and no late renewal brings it back.
-- Invariant: tokens of one key rise. A record outlives its holders and waiters, who renew its expiry, and its fence; and the
-- key 'clock' keeps the highest instant that was ever seen, should the clock go back. A server that takes over without the latest
-- grants begins at its clock, for nobody foresees a record (claim_at_once.lua) on a connection on which he was not granted it.
local prefix = string.match(KEYS[1], '^(.-}:)')
local LARGEST = 9007199254740991

-- While the slot of these keys is moved to another node of a cluster, each key is on one of the two, and a script can reach
-- none of the other's: a session that has been moved would look dead. The server then refuses to look for a key that is not
-- there, as this one never is. So nothing is decided, and nothing written, before all is in one place again.
local here = redis.pcall('EXISTS', prefix .. 'none')
if type(here) == 'table' then
  if not string.find(here.err, 'non local', 1, true) then return here end
  return redis.error_reply('TRYAGAIN the slot of these keys is being moved to another node')
end

local function digits(number) return string.format('%.0f', number) end

local clock
local function now()
  if not clock then
    local time = redis.call('TIME')
    clock = time[1] * 1000000 + time[2]
  end
  return clock
end

local lives = {}
local function alive(session)
  if lives[session] == nil then lives[session] = redis.call('EXISTS', prefix .. 's:' .. session) == 1 end
  return lives[session]
end

-- The highest instant that was ever seen. The mark is everybody's: what something else has written there ends nobody's hold,
-- and is written over.
local function latest() return math.max(tonumber(redis.pcall('GET', prefix .. 'clock')) or 0, now()) end

local function mark(instant) redis.call('SET', prefix .. 'clock', digits(instant)) end

local function damaged() error({ err = 'DAMAGED the record of a lock is not what this library writes' }) end

local function read(name)
  local record = {
    name = name, key = prefix .. 'l:' .. name, queue = prefix .. 'q:' .. name, waiters = prefix .. 'w:' .. name,
    fence = 0, capacity = 0, sequence = 0, holders = {}, notices = {}, changed = false,
  }
  local text = redis.call('GET', record.key)
  if not text then return record end
  record.known, record.text = true, text
  local fence, rest = string.match(text, '^(%d+)(.*)$')
  local capacity, sequence, holders = string.match(rest or '', '^ (%d+) (%d+)(.*)$')
  if not fence or (rest ~= '' and not capacity) then
    damaged()
  end
  record.fence = tonumber(fence)
  if capacity then
    record.capacity, record.sequence = tonumber(capacity), tonumber(sequence)
    for session, ticket, token, weight, kind, till, rest in
      string.gmatch(holders, ';(%x+) (%d+) (%d+) (%d+) (%a) (%d+) ([^;]*)') do
      record.holders[#record.holders + 1] = {
        session = session, ticket = ticket, token = token, weight = tonumber(weight), kind = kind,
        till = tonumber(till), rest = rest,
      }
    end
    local _, parts = string.gsub(holders, ';', '')
    if parts ~= #record.holders then damaged() end
  end
  return record
end

local function tell(record, session, news) record.notices[#record.notices + 1] = { session, news } end

-- Writes what has changed, and tells whom it concerns.
local function write(record, keep)
  if record.changed then
    local text, ends = { digits(record.fence) }, math.max(record.fence, now()) / 1000 + keep
    if #record.holders > 0 or record.sequence > 0 then
      text[1] = text[1] .. ' ' .. digits(record.capacity) .. ' ' .. digits(record.sequence)
    end
    for _, holder in ipairs(record.holders) do
      text[#text + 1] = holder.session .. ' ' .. holder.ticket .. ' ' .. holder.token .. ' ' .. digits(holder.weight)
        .. ' ' .. holder.kind .. ' ' .. digits(holder.till) .. ' ' .. holder.rest
      ends = math.max(ends, holder.till / 1000 + keep)
    end
    -- Another's record may have to last for longer than this one's session asks.
    ends = digits(math.max(math.ceil(ends), redis.call('PEXPIRETIME', record.key)))
    redis.call('SET', record.key, table.concat(text, ';'), 'PXAT', ends)
    if record.sequence > 0 then
      redis.call('PEXPIREAT', record.queue, ends)
      redis.call('PEXPIREAT', record.waiters, ends)
    end
  end
  for _, notice in ipairs(record.notices) do redis.call('SPUBLISH', prefix .. 'e:' .. notice[1], notice[2]) end
end

local function counts(holder)
  if holder.kind == 's' then return holder.till > now() or alive(holder.session) end
  return holder.till > now()
end

local function held(record)
  local sum = 0
  for _, holder in ipairs(record.holders) do sum = sum + holder.weight end
  return sum
end

-- 'SESSION TICKET' of the first waiter; nil where nobody waits, also if the queue has gone without a word.
local function head(record)
  if record.sequence == 0 then return nil end
  local id = redis.call('ZRANGE', record.queue, 0, 0)[1]
  if not id then record.sequence, record.changed = 0, true end
  return id
end

-- nil for one of which nothing is known any more: somebody deleted it.
local function waiter(record, id)
  local weight, kind, time, rest =
    string.match(redis.call('HGET', record.waiters, id) or '', '^(%d+) (%a) (%d+) (.*)$')
  if not weight then return nil end
  local session, ticket = string.match(id, '^(%x+) (%d+)$')
  return { session = session, ticket = ticket, weight = tonumber(weight), kind = kind, time = tonumber(time), rest = rest }
end

local function leave(record, id)
  redis.call('HDEL', record.waiters, id)
  if redis.call('ZREM', record.queue, id) == 0 then return false end
  record.changed = true
  if redis.call('EXISTS', record.queue) == 0 then record.sequence = 0 end
  return true
end

-- nil where it would be above the largest. The clock is looked at although the record is there: what it says last may have
-- been lost, with the grants that another server made since. Those lie behind the clock, as all tokens do.
local function next_token(record)
  local token = math.max(latest() + 1, record.fence + 1)
  if not record.known then mark(token) end
  if token <= LARGEST then return token end
end

-- How a hold begins: it has waited as what is in the hash, or asks for it now.
local function hold(record, claim, token)
  local kind, till = claim.kind, 0
  if kind == 'f' or claim.time > 0 then till = now() + claim.time end
  record.fence, record.known, record.changed = token, true, true
  record.holders[#record.holders + 1] = { session = claim.session, ticket = claim.ticket, token = digits(token),
    weight = claim.weight, kind = kind, till = till, rest = claim.rest }
end

local function grant_in_order(record)
  local id = head(record)
  while id do
    local first = waiter(record, id)
    if not first then
      -- It claims again at its next renewal, or now that it is told.
      local session, ticket = string.match(id, '^(%x+) (%d+)$')
      tell(record, session, 'r ' .. ticket)
    elseif alive(first.session) then
      if held(record) + first.weight > record.capacity then return end
      local token = next_token(record)
      if not token then return end
      hold(record, first, token)
      tell(record, first.session, 'g ' .. first.ticket .. ' ' .. digits(token))
    end
    leave(record, id)
    id = head(record)
  end
end

-- Removes the holders that have died or expired, then grants in order. A head that is new looks after itself from now on, and
-- so is told; one that could be granted but for the token is told as well.
local function settle(record, head_before)
  local stay = {}
  for _, holder in ipairs(record.holders) do
    if counts(holder) then
      if holder.kind == 's' and holder.till > now() and not alive(holder.session) then
        holder.kind, record.changed = 'r', true
      end
      stay[#stay + 1] = holder
    else
      record.changed = true
    end
  end
  record.holders = stay
  grant_in_order(record)
  local id = head(record)
  local first = id and waiter(record, id)
  if first and (id ~= head_before or held(record) + first.weight <= record.capacity) then
    tell(record, first.session, 'r ' .. first.ticket)
  end
end

-- In how many milliseconds a hold ends unless it is renewed; nil where that is not known.
local function ends_in(holder)
  if holder.kind ~= 's' then return math.max(math.ceil((holder.till - now()) / 1000), 0) end
  local left = redis.call('PTTL', prefix .. 's:' .. holder.session)
  if left >= 0 then return left end
end

-- When the first of the holders ends; nil where nobody holds.
local function next_end(record)
  local soonest
  for _, holder in ipairs(record.holders) do soonest = math.min(soonest or math.huge, ends_in(holder) or 0) end
  return soonest
end

-- Somebody waits for what they hold, or tried. Not for holds with a fixed end: their engine has forgotten them.
local function want_holders(record)
  for _, holder in ipairs(record.holders) do
    if holder.kind == 's' then tell(record, holder.session, 'w ' .. holder.ticket .. ' ' .. record.name) end
  end
end
