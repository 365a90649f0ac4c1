-- Adds a turn of messages of one person: `messages` are JSON, stored with commas between them,
-- accepted at `times`. The turn may be claimed from `due_at` on.
local function add_turn(turn, person, messages, times, due_at)
  redis.call('HSET', conv .. ':t:' .. turn, 'messages', table.concat(messages, ','),
    'accepted_at', table.concat(times, ' '), 'count', #messages, 'person', person,
    'due_at', due_at, 'index', 0, 'length', 0, 'attempt', 0, 'stop_requested', 0)
  set_expiry(conv .. ':t:' .. turn)
  count('queued', 1)
end

local function replace_steering(turn, items)
  local key = conv .. ':g:' .. turn
  redis.call('DEL', key)
  for _, item in ipairs(items) do
    redis.call('RPUSH', key, cmsgpack.pack(item))
  end
  set_expiry(key)
end

local function move_records(items, turn)
  for _, item in ipairs(items) do
    local record = redis.call('HGET', conv .. ':m', 'i' .. item[3])
    local digest, accepted_at, offered = string.match(record or '', '^%S+ (%S+) (%S+) (%S+)$')
    if accepted_at == item[1] then
      redis.call('HSET', conv .. ':m', 'i' .. item[3],
        table.concat({turn, digest, accepted_at, offered}, ' '))
    end
  end
end

-- Makes the next turn of untaken steering messages: the first person's, up to another person's, are
-- its own, the rest steer it. Returns their events.
local function move_steering(items, turn)
  local person, own, times, rest, events = items[1][2], {}, {}, {}, {}
  for i, item in ipairs(items) do
    if #rest == 0 and item[2] == person then
      own[#own + 1] = item[4]
      times[#times + 1] = item[1]
    else
      rest[#rest + 1] = item
    end
    events[i] = received(turn, item[5], true, 0)
  end
  add_turn(turn, person, own, times, now())
  replace_steering(turn, rest)
  redis.call('LPUSH', conv .. ':q', turn)
  set_expiry(conv .. ':q')
  move_records(items, turn)
  return events
end

-- Queues the conversation from when its oldest turn is due.
local function enqueue(name)
  local turn = redis.call('LINDEX', conv .. ':q', 0)
  if turn then
    local due_at = tonumber(redis.call('HGET', conv .. ':t:' .. turn, 'due_at'))
    redis.call('ZADD', queue, math.max(due_at, now()), name)
    wake()
  else
    redis.call('ZREM', queue, name)
  end
end
