-- What becomes of a message that is accepted while turns are open.
local BURST = 5

local function open_turn(turn)
  local person, stop, due, many = unpack(
    redis.call('HMGET', conv .. ':t:' .. turn, 'person', 'stop', 'due', 'count'))
  return {id = turn, person = person, stop = stop == '1', due = tonumber(due),
    count = tonumber(many)}
end

-- Messages that no skill has begun to answer, with those that steer a turn.
local function messages_waiting(turns, running)
  local waiting = 0
  for i, turn in ipairs(turns) do
    if turn ~= running then
      waiting = waiting + tonumber(redis.call('HGET', conv .. ':t:' .. turn, 'count'))
    end
    if i == 1 then
      waiting = waiting + redis.call('LLEN', conv .. ':g:' .. turn)
    end
  end
  return waiting
end

local function policy_of(policies, running)
  local skill = running ~= '' and redis.call('HGET', conv .. ':t:' .. running, 'skill')
  return skill and policies.skills[skill] or policies.otherwise
end

local function join(turn, message, time)
  local key = conv .. ':t:' .. turn.id
  local messages, times = unpack(redis.call('HMGET', key, 'messages', 'times'))
  redis.call('HSET', key, 'messages', messages .. ',' .. message, 'times', times .. ' ' .. time,
    'count', turn.count + 1)
end

-- A burst goes on: it ends a window from now, at most five from its beginning.
local function merge(turn, message, time, window)
  local began = string.match(redis.call('HGET', conv .. ':t:' .. turn.id, 'times'), '^%d+')
  join(turn, message, time)
  turn.due = math.min(time + window, tonumber(began) + BURST * window)
  redis.call('HSET', conv .. ':t:' .. turn.id, 'due', turn.due)
end

-- The turn that waits for the running one to stop.
local function successor_of(running)
  local turn = redis.call('HGET', conv .. ':t:' .. running, 'successor')
  return turn and redis.call('EXISTS', conv .. ':t:' .. turn) == 1 and open_turn(turn) or nil
end

-- The running turn is stopped for another one, if the policy applies to it.
local function interrupt_for(turn, person, running, limit)
  local key = conv .. ':t:' .. running
  local stopping, whose, own, others = unpack(
    redis.call('HMGET', key, 'stop', 'person', 'count', 'others'))
  local many = tonumber(own) + tonumber(others or 0) >= limit
  if stopping ~= '1' and whose == person and not many then
    redis.call('HSET', key, 'stop', 1, 'successor', turn)
  end
end
