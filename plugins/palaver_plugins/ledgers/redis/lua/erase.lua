-- KEYS: state, queue, conversation, the person's index. ARGV: name, person.
-- Returns the messages and events that went. Bounded: a conversation keeps at most history_kept
-- lines, events_kept events, 16 waiting turns and the marks of a day.
local name, person = ARGV[1], ARGV[2]
local mine = person .. ':'
local waiting, lines, stream, marks, order, members =
  conv .. ':q', conv .. ':h', conv .. ':s', conv .. ':m', conv .. ':o', conv .. ':u'
local CHUNK = 500

-- The turns that are known to answer somebody else.
local others = {}

local function theirs(line)
  return string.sub(line, 1, #mine) == mine
end

local function replace(key, values)
  redis.call('DEL', key)
  for i = 1, #values, CHUNK do
    redis.call('RPUSH', key, unpack(values, i, math.min(i + CHUNK - 1, #values)))
  end
end

local function let_go()
  local mark = redis.call('HGET', conv, 'mark')
  if mark then
    redis.call('DEL', mark)
  end
  redis.call('HDEL', conv, 'mark', 'worker')
  redis.call('HSET', conv, 'running', '')
end

local function drop_turns()
  local running = redis.call('HGET', conv, 'running')
  local gone = 0
  for _, turn in ipairs(redis.call('LRANGE', waiting, 0, -1)) do
    if redis.call('HGET', conv .. ':t:' .. turn, 'sender') == person then
      redis.call('LREM', waiting, 1, turn)
      redis.call('UNLINK', conv .. ':t:' .. turn, conv .. ':r:' .. turn, conv .. ':j:' .. turn)
      count(turn == running and 'running' or 'queued', -1)
      gone = gone + 1
      if turn == running then
        let_go()
        redis.call('ZADD', queue, now(), name)
      end
    else
      others[turn] = true
    end
  end
  if redis.call('LLEN', waiting) == 0 then
    redis.call('ZREM', queue, name)
  end
  return gone
end

local function drop_history()
  local kept, gone = {}, 0
  for _, line in ipairs(redis.call('LRANGE', lines, 0, -1)) do
    if not theirs(line) then
      kept[#kept + 1] = line
      others[string.match(line, '","turn":"(%w+)","at":')] = true
    else
      gone = gone + 1
    end
  end
  replace(lines, kept)
  return math.floor((gone + 1) / 2)
end

-- The stream begins anew, without a gap; those who watch it take a snapshot.
local function drop_events()
  local kept, all = {}, redis.call('XRANGE', stream, '-', '+')
  for _, entry in ipairs(all) do
    local event = entry[2][2]
    if others[string.match(event, '^{"type":"[%w_]+","turn":"(%w+)"')] then
      kept[#kept + 1] = event
    end
  end
  redis.call('DEL', stream)
  for i, event in ipairs(kept) do
    redis.call('XADD', stream, i .. '-0', 'e', event)
  end
  redis.call('EXPIRE', stream, STREAM_TTL)
  redis.call('HSET', conv, 'offset', #kept)
  return #all - #kept
end

local function drop_marks()
  local kept = {}
  for _, mark in ipairs(redis.call('LRANGE', order, 0, -1)) do
    local turn, sender, id = string.match(mark, '^%d+:(%w+):([^:]+):(.*)$')
    if sender == person then
      redis.call('HDEL', marks, 'i' .. id, 't' .. turn)
    else
      kept[#kept + 1] = mark
    end
  end
  local left = redis.call('PTTL', order)
  replace(order, kept)
  redis.call('PEXPIRE', order, math.max(left, 1))
end

if redis.call('SISMEMBER', members, person) == 0 then
  redis.call('SREM', KEYS[4], name)
  return {0, 0}
end

local messages = drop_turns() + drop_history()
local events
local birth = redis.call('HINCRBY', state, 'erasures', 1)
if redis.call('SCARD', members) == 1 then
  events = redis.call('XLEN', stream)
  redis.call('UNLINK', conv, waiting, lines, stream, marks, order, members)
else
  events = drop_events()
  drop_marks()
  redis.call('SREM', members, person)
  redis.call('HSET', conv, 'birth', birth)
  if theirs(redis.call('HGET', conv, 'waiting') or '') then
    redis.call('HDEL', conv, 'waiting')
  end
end
redis.call('SREM', KEYS[4], name)
redis.call('PUBLISH', conv .. ':e', '[]')
redis.call('PUBLISH', queue, '')
return {messages, events}
