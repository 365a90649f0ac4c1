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

-- Compares bytes: Lua compares strings by the locale of the server.
local function is_greater(order, other)
  for i = 1, math.min(#order, #other) do
    local byte, other_byte = string.byte(order, i), string.byte(other, i)
    if byte ~= other_byte then
      return byte > other_byte
    end
  end
  return #order > #other
end

-- A turn stores the orders and the sizes of its messages, as '<order>:<bytes> <order>:<bytes>'. One of
-- steering messages, or of an earlier release of the server, stores none.
local function order_entry(order, message)
  return order .. ':' .. #message
end

-- Returns the order of the first message of a turn that waits for its first attempt; '' where none
-- may go before the turn.
local function order_of(turn)
  local orders, attempt, index, successor = unpack(
    redis.call('HMGET', conv .. ':t:' .. turn, 'orders', 'attempt', 'index', 'successor'))
  if attempt ~= '0' or index ~= '0' or successor
    or redis.call('EXISTS', conv .. ':g:' .. turn) == 1 then
    return ''
  end
  return string.match(orders or '', '^[^:]*')
end

-- Returns the place of a new turn among the unsettled ones, as in `palaver.concurrency`.
local function place_in_order(order, turns)
  local place = #turns + 1
  while order ~= '' and place > 1 and is_greater(order_of(turns[place - 1]), order) do
    place = place - 1
  end
  return place
end

-- Returns the number of a new turn at that place: between those of the turns before and after it,
-- also of those that were stopped while they waited.
local function number_at(place, turns)
  if place > #turns then
    return redis.call('HINCRBY', conv, 'turns', 1)
  end
  local after = redis.call('HGET', conv .. ':t:' .. turns[place], 'number') or 0
  local before = place > 1 and redis.call('HGET', conv .. ':t:' .. turns[place - 1], 'number') or 0
  local stopped = redis.call('ZRANGE', conv .. ':w', '(' .. after, '-inf', 'BYSCORE', 'REV',
    'LIMIT', 0, 1, 'WITHSCORES')
  return (math.max(before, stopped[2] or 0) + after) / 2
end

-- Adds the message to a turn that waits, in its place.
local function join(turn, message, time, order)
  local key, times, entries = conv .. ':t:' .. turn.id, {}, {}
  local messages, accepted_at, orders = unpack(
    redis.call('HMGET', key, 'messages', 'accepted_at', 'orders'))
  for moment in string.gmatch(accepted_at, '%d+') do
    times[#times + 1] = moment
  end
  for entry in string.gmatch(orders or '', '%S+') do
    entries[#entries + 1] = entry
  end
  messages = messages .. ','
  local place, start = #times + 1, #messages + 1
  if #entries == #times then
    while order ~= '' and place > 1 do
      local other, size = string.match(entries[place - 1], '^(.*):(%d+)$')
      if not is_greater(other, order) then
        break
      end
      place, start = place - 1, start - size - 1
    end
    table.insert(entries, place, order_entry(order, message))
  end
  table.insert(times, place, integer(time))
  messages = string.sub(messages, 1, start - 1) .. message .. ',' .. string.sub(messages, start)
  redis.call('HSET', key, 'messages', string.sub(messages, 1, -2), 'count', #times,
    'accepted_at', table.concat(times, ' '), 'orders', table.concat(entries, ' '))
end

-- The server's clock may have been set since the burst began: its begin is at most MAX_MERGE_WINDOWS
-- before the present end of the window.
local function extend_window(turn, time, window)
  local key, first = conv .. ':t:' .. turn.id, math.huge
  for moment in string.gmatch(redis.call('HGET', key, 'accepted_at'), '%d+') do
    first = math.min(first, tonumber(moment))
  end
  local longest = MAX_MERGE_WINDOWS * window
  local began_at = math.max(first, turn.due_at - longest)
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
