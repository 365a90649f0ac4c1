-- Every script begins with this. KEYS: the partition's state and queue, then the conversation.
-- State: run, life, erasures, queued, running. Queue: conversation -> when it is due, in ms: a
-- conversation whose turns wait since when, one whose turn runs when the lease lapses.
-- The conversation's own keys are its key with a suffix; ids hold no colon, so none collide.
local state, queue, conv = KEYS[1], KEYS[2], KEYS[3]
local life, erasures = unpack(redis.call('HMGET', state, 'life', 'erasures'))
if not life then
  return redis.error_reply('NOLIFE the store is new')
end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function json_time(ms)
  return string.format('%.3f', ms / 1000)
end

-- A stream's epoch: the store's life, and how many erasures it had when the stream began.
local function epoch_of(birth)
  return life .. '-' .. (birth or erasures or '0')
end

local function count(what, by)
  redis.call('HINCRBY', state, what, by)
end

local function json_list(items)
  return '[' .. table.concat(items, ',') .. ']'
end

-- Lines of history are kept as '<sender>:<json>'.
local function without_sender(lines)
  local plain = {}
  for i, line in ipairs(lines) do
    plain[i] = string.sub(line, string.find(line, ':', 1, true) + 1)
  end
  return plain
end

local function newest_history(limit)
  if limit <= 0 then
    return '[]'
  end
  return json_list(without_sender(redis.call('LRANGE', conv .. ':h', -limit, -1)))
end
