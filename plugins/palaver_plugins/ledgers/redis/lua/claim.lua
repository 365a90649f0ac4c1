-- KEYS: state, queue, the mark of this claim. ARGV: prefix of conversation keys, worker,
-- lease(ms), lines of history. Returns the claim as JSON, else the ms until a turn may be due,
-- or -1 when none is in sight.
local mark, prefix, worker = KEYS[3], ARGV[1], ARGV[2]
local lease, lines = tonumber(ARGV[3]), tonumber(ARGV[4])
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
  local message, attempt, index, stop = unpack(
    redis.call('HMGET', key, 'message', 'attempt', 'index', 'stop'))
  local waiting = redis.call('HGET', conv, 'waiting')
  return table.concat({
    '{"turn":"', turn, '","messages":[', message, '],"fence":', fence, ',"attempt":', attempt,
    ',"index":', index, ',"reply":', cjson.encode(redis.call('GET', conv .. ':r:' .. turn) or ''),
    ',"journal":', json_list(steps_of(turn)), ',"history":', newest_history(lines),
    ',"waiting":', waiting and without_sender({waiting})[1] or 'null',
    ',"stop":', stop == '1' and 'true' or 'false', '}'})
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

local time = now()
local name, due = unpack(redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES'))
if not name then
  return -1
end
if tonumber(due) > time then
  return tonumber(due) - time
end

conv = prefix .. name
local turn = redis.call('LINDEX', conv .. ':q', 0)
local running, old = unpack(redis.call('HMGET', conv, 'running', 'mark'))
if not running or running == '' then
  count('queued', -1)
  count('running', 1)
end
if old then
  redis.call('DEL', old)
end
local fence = redis.call('HINCRBY', conv, 'fence', 1)
redis.call('HSET', conv, 'running', turn, 'worker', worker, 'mark', mark)
redis.call('SET', mark, name, 'PX', MARK_TTL)
redis.call('HINCRBY', conv .. ':t:' .. turn, 'attempt', 1)
redis.call('HDEL', conv .. ':t:' .. turn, 'last')
redis.call('ZADD', queue, time + lease, name)
return claimed(turn, fence)
