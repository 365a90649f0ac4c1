-- A turn is made of messages of one person: `messages` as JSON, joined by commas, accepted at
-- `times`. It may be claimed from `due` on.
local function make_turn(turn, person, messages, times, due)
  redis.call('HSET', conv .. ':t:' .. turn, 'messages', table.concat(messages, ','),
    'times', table.concat(times, ' '), 'count', #messages, 'person', person, 'due', due,
    'index', 0, 'length', 0, 'attempt', 0, 'stop', 0)
  lasts(conv .. ':t:' .. turn)
  count('queued', 1)
end

-- Let items, and no others, steer the turn.
local function keep_steering(turn, items)
  local key = conv .. ':g:' .. turn
  redis.call('DEL', key)
  for _, item in ipairs(items) do
    redis.call('RPUSH', key, cmsgpack.pack(item))
  end
  lasts(key)
end

local function give_marks(items, turn)
  for _, item in ipairs(items) do
    local mark = redis.call('HGET', conv .. ':m', 'i' .. item[3])
    local digest, at, nonce = string.match(mark or '', '^%S+ (%S+) (%S+) (%S+)$')
    if at == item[1] then
      redis.call('HSET', conv .. ':m', 'i' .. item[3],
        table.concat({turn, digest, at, nonce}, ' '))
    end
  end
end

-- Make the next turn of messages that steered one which is over: the first person's are its own,
-- and the others steer it. Returns the events that tell of it.
local function go_on_with(items, turn)
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
  make_turn(turn, person, own, times, now())
  keep_steering(turn, rest)
  redis.call('LPUSH', conv .. ':q', turn)
  lasts(conv .. ':q')
  give_marks(items, turn)
  return events
end

-- The conversation waits for a worker, from when its oldest turn is due.
local function enqueue(name)
  local turn = redis.call('LINDEX', conv .. ':q', 0)
  if turn then
    local due = tonumber(redis.call('HGET', conv .. ':t:' .. turn, 'due'))
    redis.call('ZADD', queue, math.max(due, now()), name)
    wake()
  else
    redis.call('ZREM', queue, name)
  end
end
