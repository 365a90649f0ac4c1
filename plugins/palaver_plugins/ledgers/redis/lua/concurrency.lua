-- Concurrency policies: decide what happens to a message that arrives while turns are open. The same
-- rules as in `palaver.concurrency`, for the state that only Redis has.
local MAX_MERGE_WINDOWS = 5

local function read_turn(turn)
  local person, stop_requested, due_at, messages = unpack(redis.call(
    'HMGET', conv .. ':t:' .. turn, 'person', 'stop_requested', 'due_at', 'count'))
  return {id = turn, person = person, stop_requested = stop_requested == '1',
    due_at = tonumber(due_at), count = tonumber(messages)}
end

-- Counts the messages of turns that wait, and the steering messages.
local function count_waiting_messages(turns, running)
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

-- Returns the size of all messages without a reply.
local function unsettled_bytes(turns)
  local size = 0
  for _, turn in ipairs(turns) do
    local key = conv .. ':t:' .. turn
    size = size + redis.call('HSTRLEN', key, 'messages') + redis.call('HSTRLEN', key, 'interrupted')
  end
  for _, message in ipairs(turns[1] and messages_of(steering_of(turns[1])) or {}) do
    size = size + #message
  end
  return size
end

local function policy_of(policies, running)
  local skill = running ~= '' and redis.call('HGET', conv .. ':t:' .. running, 'skill')
  return skill and policies.skills[skill] or policies.default
end

local function join(turn, message, time)
  local key = conv .. ':t:' .. turn.id
  local messages, times = unpack(redis.call('HMGET', key, 'messages', 'accepted_at'))
  redis.call('HSET', key, 'messages', messages .. ',' .. message,
    'accepted_at', times .. ' ' .. time, 'count', turn.count + 1)
end

-- The server's clock may have been set since the burst began: its begin is at most MAX_MERGE_WINDOWS
-- before the present end of the window.
local function merge(turn, message, time, window)
  local key = conv .. ':t:' .. turn.id
  local accepted_at = string.match(redis.call('HGET', key, 'accepted_at'), '^%d+')
  local longest = MAX_MERGE_WINDOWS * window
  join(turn, message, time)
  local began_at = math.max(tonumber(accepted_at), turn.due_at - longest)
  turn.due_at = math.min(time + window, began_at + longest)
  redis.call('HSET', key, 'due_at', turn.due_at)
end

-- Returns the unsettled turn for which the running one was interrupted.
local function successor_of(running)
  local turn = redis.call('HGET', conv .. ':t:' .. running, 'successor')
  return turn and redis.call('EXISTS', conv .. ':t:' .. turn) == 1 and read_turn(turn) or nil
end

-- Stops the running turn for its successor, if the policy applies to it.
local function interrupt(running, successor, person, limit)
  local key = conv .. ':t:' .. running
  local stop_requested, owner, own, interrupted = unpack(redis.call(
    'HMGET', key, 'stop_requested', 'person', 'count', 'interrupted_count'))
  local answered = tonumber(own) + tonumber(interrupted or 0)
  if stop_requested ~= '1' and owner == person and answered < limit then
    redis.call('HSET', key, 'stop_requested', 1, 'successor', successor)
  end
end
