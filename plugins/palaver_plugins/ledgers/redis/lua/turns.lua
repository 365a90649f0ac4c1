-- Adds a turn of messages of one person: `messages` are JSON, stored with commas between them,
-- accepted at `times`. The turn may be claimed from `due_at` on. Turns run in the order of their
-- numbers; one of untaken steering messages has the number of the turn that they steered.
-- The number of a turn that goes before others is a fraction.
local function add_turn(turn, person, messages, times, due_at, number, orders)
  redis.call('HSET', conv .. ':t:' .. turn, 'messages', table.concat(messages, ','),
    'accepted_at', table.concat(times, ' '), 'count', #messages, 'person', person,
    'due_at', due_at, 'number', number, 'orders', orders or '', 'index', 0, 'length', 0, 'attempt', 0, 'stop_requested', 0)
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
local function move_steering(items, turn, number)
  local person, own, times, rest, events = items[1][2], {}, {}, {}, {}
  for i, item in ipairs(items) do
    if #rest == 0 and item[2] == person then
      own[#own + 1] = item[4]
      times[#times + 1] = item[1]
    else
      rest[#rest + 1] = item
    end
    events[i] = received(turn, item[5], true, 0, item[1])
  end
  add_turn(turn, person, own, times, now(), number)
  replace_steering(turn, rest)
  redis.call('LPUSH', conv .. ':q', turn)
  set_expiry(conv .. ':q')
  move_records(items, turn)
  return events
end

local function user_entry(turn, person, text, time, parts)
  return table.concat({person, ':{"role":"user","text":', text, ',"turn":"', turn, '","at":',
    json_time(time), ',"person":', cjson.encode(person), parts, '}'})
end

local function reply_entry(turn, person, reply, skill, outcome, parts)
  return table.concat({person, ':{"role":"assistant","text":', reply, ',"turn":"', turn, '","at":',
    json_time(now()), ',"skill":', skill, ',"outcome":"', outcome, '"', parts or '', '}'})
end

local function store_history(entries, history_kept)
  for _, entry in ipairs(entries) do
    redis.call('RPUSH', conv .. ':h', entry)
  end
  local excess = redis.call('LLEN', conv .. ':h') - history_kept
  if excess > 0 then
    forget_trimmed(excess)
    for _, entry in ipairs(redis.call('LRANGE', conv .. ':h', 0, excess - 1)) do
      local turn = rated_turn_of(entry)
      if turn then
        forget_feedback(turn)
      end
    end
    redis.call('LTRIM', conv .. ':h', excess, -1)
    redis.call('HINCRBY', conv, 'trimmed', excess)
  end
  set_expiry(conv .. ':h')
end

-- Moves to the history the turns that were stopped while they waited, up to the oldest unsettled one.
local function store_stopped_history(history_kept)
  local oldest = redis.call('LINDEX', conv .. ':q', 0)
  local number = oldest and redis.call('HGET', conv .. ':t:' .. oldest, 'number')
  local ends = oldest and '(' .. (number or 0) or '+inf'
  for _, item in ipairs(redis.call('ZRANGE', conv .. ':w', '-inf', ends, 'BYSCORE')) do
    store_history(cmsgpack.unpack(item)[3], history_kept)
  end
  redis.call('ZREMRANGEBYSCORE', conv .. ':w', '-inf', ends)
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
