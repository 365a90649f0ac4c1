-- KEYS: state, queue, conversation, the person's index. ARGV: name, person, the id of a turn that
-- may have to be made. Returns the messages and events that went, and whether the person had a part
-- in the conversation. Bounded: a conversation keeps at most history_kept lines, events_kept
-- events, 16 waiting messages and the marks of a day.
local name, person, fresh = ARGV[1], ARGV[2], ARGV[3]
local mine = person .. ':'
local waiting, lines, stream, marks, order, members =
  conv .. ':q', conv .. ':h', conv .. ':s', conv .. ':m', conv .. ':o', conv .. ':u'
local CHUNK = 500
till = tonumber(redis.call('HGET', conv, 'until'))

if redis.call('SISMEMBER', members, person) == 0 then
  redis.call('ZREM', KEYS[4], name)
  return {0, 0, 0}
end

-- The turns that are known to answer somebody else.
local others, messages = {}, 0
local running = redis.call('HGET', conv, 'running') or ''
local turns = redis.call('LRANGE', waiting, 0, -1)
local head = turns[1]

local function turn_key(turn)
  return conv .. ':t:' .. turn
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

-- What others have said to steer the oldest turn; and whether the person has.
local function split_steering()
  local left, theirs = {}, false
  for _, item in ipairs(head and steering_of(head) or {}) do
    if item[2] == person then
      theirs, messages = true, messages + 1
    else
      left[#left + 1] = item
    end
  end
  return left, theirs
end

-- Whether what the oldest turn put out may hold what the person has said to a skill that asked.
local function forget_waiting()
  local people = split_waiting(redis.call('HGET', conv, 'waiting'))
  if not people or not string.find(people, ':' .. person .. ':', 1, true) then
    return false
  end
  redis.call('HDEL', conv, 'waiting')
  return head and (running ~= '' or redis.call('HGET', turn_key(head), 'index') ~= '0')
end

local function drop_turns()
  for _, turn in ipairs(turns) do
    local author, own = unpack(redis.call('HMGET', turn_key(turn), 'person', 'count'))
    if author == person then
      messages = messages + tonumber(own)
      redis.call('LREM', waiting, 1, turn)
      redis.call('UNLINK', turn_key(turn), conv .. ':r:' .. turn, conv .. ':j:' .. turn,
        conv .. ':g:' .. turn)
      count(turn == running and 'running' or 'queued', -1)
    else
      others[turn] = true
    end
  end
end

local function begin_anew(turn)
  redis.call('DEL', conv .. ':r:' .. turn, conv .. ':j:' .. turn)
  redis.call('HSET', turn_key(turn), 'index', 0, 'length', 0)
  redis.call('HDEL', turn_key(turn), 'skill', 'last', 'reached')
  if turn == running then
    redis.call('HINCRBY', turn_key(turn), 'attempt', -1)
    count('running', -1)
    count('queued', 1)
  end
end

local function drop_history()
  local kept = {}
  for _, line in ipairs(redis.call('LRANGE', lines, 0, -1)) do
    local is_reply = string.match(line, '^[^:]*:{"role":"(%w+)"') == 'assistant'
    if string.sub(line, 1, #mine) ~= mine then
      kept[#kept + 1] = line
      if is_reply then
        others[string.match(line, '","turn":"(%w+)","at":')] = true
      end
    elseif not is_reply then
      messages = messages + 1
    end
  end
  replace(lines, kept)
  lasts(lines)
end

local function stays(event)
  local kind, turn = string.match(event, '^{"type":"([%w_]+)","turn":"(%w+)"')
  if kind == 'message' then
    return cjson.decode(event).person ~= person
  end
  return others[turn]
end

-- The stream begins anew, without a gap; those who watch it take a snapshot.
local function drop_events(moved)
  local kept, all = {}, redis.call('XRANGE', stream, '-', '+')
  for _, entry in ipairs(all) do
    if stays(entry[2][2]) then
      kept[#kept + 1] = entry[2][2]
    end
  end
  local gone = #all - #kept
  for _, event in ipairs(moved) do
    kept[#kept + 1] = event
  end
  redis.call('DEL', stream)
  for i, event in ipairs(kept) do
    redis.call('XADD', stream, i .. '-0', 'e', event)
  end
  lasts_at_most(stream, WEEK)
  redis.call('HSET', conv, 'offset', #kept)
  return gone
end

local function drop_marks()
  local kept = {}
  for _, listed in ipairs(redis.call('LRANGE', order, 0, -1)) do
    local _, author, mark = split_mark(listed)
    if author == person then
      redis.call('HDEL', marks, mark)
    else
      kept[#kept + 1] = listed
    end
  end
  replace(order, kept)
  lasts_at_most(order, DAY)
end

local left, steered = split_steering()
local resumed = forget_waiting()
drop_turns()
drop_history()
redis.call('ZREM', KEYS[4], name)
erasures = redis.call('HINCRBY', state, 'erasures', 1)
local events
if redis.call('SCARD', members) == 1 then
  events = redis.call('XLEN', stream)
  if running ~= '' then
    let_go()
  end
  redis.call('UNLINK', conv, waiting, lines, stream, marks, order, members)
  redis.call('ZREM', queue, name)
else
  local moved, stays_head = {}, head and others[head]
  if head and not stays_head and #left > 0 then
    moved = go_on_with(left, fresh)
  elseif stays_head and (steered or resumed) then
    begin_anew(head)
    keep_steering(head, left)
    others[head] = nil
  end
  events = drop_events(moved)
  drop_marks()
  redis.call('SREM', members, person)
  redis.call('HSET', conv, 'birth', birth_now())
  if running ~= '' and not others[running] then
    let_go()
    running = ''
  end
  if running == '' then
    enqueue(name)
  end
end
redis.call('PUBLISH', conv .. ':e', '[]')
wake()
return {messages, events, 1}
