-- KEYS: state, queue, the key of this claim. ARGV: prefix of conversation keys, worker, lease (ms),
-- number of history entries, prefix of owners' channels, owner, bytes of history. Returns the claim as
-- JSON, else the ms until a turn may be due, or -1 when the queue is empty.
local claim_key, prefix, worker = KEYS[3], ARGV[1], ARGV[2]
local lease, history = tonumber(ARGV[3]), tonumber(ARGV[4])
local channels, owner, history_bytes = ARGV[5], ARGV[6], tonumber(ARGV[7])
local CLAIM_KEY_TTL = 60000

local function steps_of(turn)
  local fields, steps = redis.call('HGETALL', conv .. ':j:' .. turn), {}
  for i = 1, #fields, 2 do
    steps[#steps + 1] = {tonumber(fields[i]), fields[i + 1]}
  end
  table.sort(steps, function(one, other) return one[1] < other[1] end)
  for i, step in ipairs(steps) do
    steps[i] = step[2]
  end
  return steps
end

local function earliest(times)
  local moment = math.huge
  for each in string.gmatch(times or '', '%d+') do
    moment = math.min(moment, tonumber(each))
  end
  return moment
end

local function claim_json(turn, fence)
  local key = conv .. ':t:' .. turn
  local messages, accepted_at, interrupted, attempt, index, stop_requested = unpack(redis.call(
    'HMGET', key, 'messages', 'accepted_at', 'interrupted', 'attempt', 'index', 'stop_requested'))
  local _, question = split_question(redis.call('HGET', conv, 'pending_question'))
  local entries, _, history_cut = select_history(history, history_bytes, {})
  return table.concat({
    '{"turn":"', turn, '","messages":[', messages, '],"accepted_at":',
    json_time(earliest(accepted_at)), ',"interrupted":[', interrupted or '',
    '],"steering_messages":', json_list(messages_of(steering_of(turn))), ',"fence":', integer(fence),
    ',"attempt":', attempt, ',"index":', index,
    ',"reply":', cjson.encode(redis.call('GET', conv .. ':r:' .. turn) or ''),
    ',"journal":', json_list(steps_of(turn)), ',"history":', entries,
    ',"history_cut":', tostring(history_cut),
    ',"pending_question":', question or 'null',
    ',"stop_requested":', stop_requested == '1' and 'true' or 'false', '}'})
end

-- A repetition of a claim with a lost reply.
local claimed = redis.call('GET', claim_key)
if claimed then
  conv = prefix .. claimed
  local running, fence, by = unpack(redis.call('HMGET', conv, 'running', 'fence', 'claim_key'))
  if by == claim_key and running ~= '' then
    return claim_json(running, fence)
  end
end

-- Removes conversations from the queue that have expired with unsettled turns, and counts again.
local function remove_expired()
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
  local name, due_at = unpack(redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES'))
  return name, tonumber(due_at), name and redis.call('LINDEX', prefix .. name .. ':q', 0)
end

-- Returns the latest time at which a conversation can be due: at the end of a lease that begins now, or
-- of the merge window or the delay of a turn, unless all its messages were accepted later than now.
local function latest_due(name, time)
  local running, its_lease = unpack(redis.call('HMGET', prefix .. name, 'running', 'lease'))
  if running and running ~= '' then
    return time + tonumber(its_lease or lease)
  end
  local turn = redis.call('LINDEX', prefix .. name .. ':q', 0) or ''
  local due_at, times = unpack(
    redis.call('HMGET', prefix .. name .. ':t:' .. turn, 'due_at', 'accepted_at'))
  return earliest(times) <= time and math.max(time, tonumber(due_at)) or time
end

-- After the server's clock was set back, leases and waiting turns would be due in the far future. Those
-- are the last in the queue.
local MAX_REQUEUED = 100
local function requeue_stale(time)
  for _ = 1, MAX_REQUEUED do
    local name, due_at = unpack(redis.call('ZRANGE', queue, 0, 0, 'REV', 'WITHSCORES'))
    local latest = name and latest_due(name, time)
    if not name or tonumber(due_at) <= latest then
      return
    end
    redis.call('ZADD', queue, latest, name)
  end
end

-- A process that holds claims subscribes to a channel of its own, and Redis notices at once when the
-- connection ends. A process that has no subscription for GONE ms counts as dead: its turns are due
-- before their leases expire. If it lives after all, the fence refuses its writes.
local CHECK_INTERVAL, GONE = 100, 500
local owners = cmsgpack.unpack(redis.call('HGET', state, 'owners') or cmsgpack.pack({}))

local function end_leases(dead, time)
  for _, name in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
    local running, by = unpack(redis.call('HMGET', prefix .. name, 'running', 'owner'))
    if by == dead and running and running ~= '' then
      redis.call('ZADD', queue, time, name)
    end
  end
end

-- Returns the ms until the next check. `owners` maps each to the time since which it is missing, or
-- to 0.
local function check_owners(time)
  local wait = 250
  local since_check = time - tonumber(redis.call('HGET', state, 'owners_checked_at') or 0)
  if since_check >= 0 and since_check < CHECK_INTERVAL then
    return CHECK_INTERVAL
  end
  for each, missing_since in pairs(owners) do
    if redis.call('PUBLISH', channels .. each, '') > 0 then
      owners[each] = 0
    elseif missing_since == 0 or missing_since > time then
      owners[each] = time
      wait = GONE
    elseif time - missing_since < GONE then
      wait = math.min(wait, GONE - (time - missing_since))
    else
      owners[each] = nil
      end_leases(each, time)
    end
  end
  redis.call('HSET', state, 'owners', cmsgpack.pack(owners), 'owners_checked_at', integer(time))
  return wait
end

local time = now()
local next_check = check_owners(time)
local name, due_at, turn = next_due()
if name and not turn then
  remove_expired()
  name, due_at, turn = next_due()
end
if name and due_at > time then
  requeue_stale(time)
  name, due_at, turn = next_due()
end
if not name then
  return -1
end
if due_at > time or not turn then
  return math.min(math.max(due_at - time, 0), next_check)
end

conv = prefix .. name
local running, old_claim_key = unpack(redis.call('HMGET', conv, 'running', 'claim_key'))
if not running or running == '' then
  count('queued', -1)
  count('running', 1)
end
if old_claim_key then
  redis.call('DEL', old_claim_key)
end
local fence = redis.call('HINCRBY', conv, 'fence', 1)
redis.call('HSET', conv, 'running', turn, 'worker', worker, 'owner', owner,
  'claim_key', claim_key, 'lease', lease)
if not owners[owner] then
  owners[owner] = 0
  redis.call('HSET', state, 'owners', cmsgpack.pack(owners))
end
redis.call('SET', claim_key, name, 'PX', CLAIM_KEY_TTL)
redis.call('HINCRBY', conv .. ':t:' .. turn, 'attempt', 1)
redis.call('HDEL', conv .. ':t:' .. turn, 'last_write')
redis.call('ZADD', queue, time + lease, name)
return claim_json(turn, fence)
