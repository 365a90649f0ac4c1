-- KEYS: state, queue, the mark of this claim. ARGV: prefix of conversation keys, worker,
-- lease(ms), lines of history, prefix of owners' channels, owner. Returns the claim as JSON, else
-- the ms until a turn may be due, or -1 when none is in sight.
local mark, prefix, worker = KEYS[3], ARGV[1], ARGV[2]
local lease, lines = tonumber(ARGV[3]), tonumber(ARGV[4])
local channels, owner = ARGV[5], ARGV[6]
local MARK_TTL = 60000

local function steps_of(turn)
  local held, steps = redis.call('HGETALL', conv .. ':j:' .. turn), {}
  for i = 1, #held, 2 do
    steps[#steps + 1] = {tonumber(held[i]), held[i + 1]}
  end
  table.sort(steps, function(one, other) return one[1] < other[1] end)
  for i, step in ipairs(steps) do
    steps[i] = step[2]
  end
  return steps
end

local function claimed(turn, fence)
  local key = conv .. ':t:' .. turn
  local messages, interrupted, attempt, index, stop = unpack(
    redis.call('HMGET', key, 'messages', 'interrupted', 'attempt', 'index', 'stop'))
  local _, waiting = split_waiting(redis.call('HGET', conv, 'waiting'))
  return table.concat({
    '{"turn":"', turn, '","messages":[', messages, '],"interrupted":[', interrupted or '',
    '],"steering_messages":', json_list(messages_of(steering_of(turn))), ',"fence":', fence,
    ',"attempt":', attempt, ',"index":', index,
    ',"reply":', cjson.encode(redis.call('GET', conv .. ':r:' .. turn) or ''),
    ',"journal":', json_list(steps_of(turn)), ',"history":', newest_history(lines),
    ',"pending_question":', waiting or 'null', ',"stop_requested":', stop == '1' and 'true' or 'false', '}'})
end

-- The same claim asked for again, because its answer was lost on the way.
local answered = redis.call('GET', mark)
if answered then
  conv = prefix .. answered
  local running, fence, by = unpack(redis.call('HMGET', conv, 'running', 'fence', 'mark'))
  if by == mark and running ~= '' then
    return claimed(running, fence)
  end
end

-- Take out the conversations that have expired while their turns waited, and count again.
local function forget_expired()
  local queued, running = 0, 0
  for _, name in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
    local turns = redis.call('LLEN', prefix .. name .. ':q')
    if turns == 0 then
      redis.call('ZREM', queue, name)
    elseif (redis.call('HGET', prefix .. name, 'running') or '') ~= '' then
      running = running + 1
    end
    queued = queued + turns
  end
  redis.call('HSET', state, 'queued', queued - running, 'running', running)
end

local function next_due()
  local name, due = unpack(redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES'))
  return name, tonumber(due), name and redis.call('LINDEX', prefix .. name .. ':q', 0)
end

-- A process that holds claims listens to a channel of its own, and Redis knows at once when its
-- connection ends. One that is not back within GONE ms has died: its turns are due before their
-- leases lapse. One that lives after all meets the fence.
local LOOK, GONE = 100, 500
local owners = cmsgpack.unpack(redis.call('HGET', state, 'owners') or cmsgpack.pack({}))

local function let_go(dead, time)
  for _, name in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
    local running, by = unpack(redis.call('HMGET', prefix .. name, 'running', 'owner'))
    if by == dead and running and running ~= '' then
      redis.call('ZADD', queue, time, name)
    end
  end
end

-- Returns the ms until one may turn out to be dead; owners holds since when they were missed, or 0.
local function look_for_dead(time)
  local wait = 250
  if time - tonumber(redis.call('HGET', state, 'looked') or 0) < LOOK then
    return LOOK
  end
  for each, since in pairs(owners) do
    if redis.call('PUBLISH', channels .. each, '') > 0 then
      owners[each] = 0
    elseif since == 0 then
      owners[each] = time
      wait = GONE
    elseif time - since < GONE then
      wait = math.min(wait, GONE - (time - since))
    else
      owners[each] = nil
      let_go(each, time)
    end
  end
  redis.call('HSET', state, 'owners', cmsgpack.pack(owners), 'looked', string.format('%.0f', time))
  return wait
end

local time = now()
local look = look_for_dead(time)
local name, due, turn = next_due()
if name and not turn then
  forget_expired()
  name, due, turn = next_due()
end
if not name then
  return -1
end
if due > time then
  return math.min(due - time, look)
end

conv = prefix .. name
local running, old = unpack(redis.call('HMGET', conv, 'running', 'mark'))
if not running or running == '' then
  count('queued', -1)
  count('running', 1)
end
if old then
  redis.call('DEL', old)
end
local fence = redis.call('HINCRBY', conv, 'fence', 1)
redis.call('HSET', conv, 'running', turn, 'worker', worker, 'owner', owner, 'mark', mark)
if not owners[owner] then
  owners[owner] = 0
  redis.call('HSET', state, 'owners', cmsgpack.pack(owners))
end
redis.call('SET', mark, name, 'PX', MARK_TTL)
redis.call('HINCRBY', conv .. ':t:' .. turn, 'attempt', 1)
redis.call('HDEL', conv .. ':t:' .. turn, 'last')
redis.call('ZADD', queue, time + lease, name)
return claimed(turn, fence)
