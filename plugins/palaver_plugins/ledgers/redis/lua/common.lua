-- Every script begins with this. KEYS: the partition's state and queue, then the conversation.
-- State: run, life, erasures, retention (ms, 0 for ever), queued, running, owners and looked (see
-- claim). Queue: conversation -> when it is due, in ms: a conversation whose turns wait since when (or until when, while a burst
-- goes on), one whose turn runs when the lease lapses.
-- The conversation's own keys are its key with a suffix; ids hold no colon, so none collide.
local state, queue, conv = KEYS[1], KEYS[2], KEYS[3]
local life, erasures, retention = unpack(
  redis.call('HMGET', state, 'life', 'erasures', 'retention'))
if not life then
  return redis.error_reply('NOLIFE the store is new')
end
retention = tonumber(retention or 0)

-- The time in ms, of this step.
local step_time
local function now()
  if not step_time then
    local time = redis.call('TIME')
    step_time = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return step_time
end

local function json_time(ms)
  return string.format('%.3f', ms / 1000)
end

-- What tells a conversation that begins now from an earlier one of its name, which was erased or
-- has expired: it was silent for as long as things are kept, so that its birth was in an earlier
-- period of that length.
local function birth_now()
  local period = retention > 0 and math.floor(now() / retention) or 0
  return string.format('%s.%d', erasures or '0', period)
end

-- A stream's epoch: the store's life, and the conversation's birth.
local function epoch_of(birth)
  return life .. '-' .. (birth or birth_now())
end

local function count(what, by)
  redis.call('HINCRBY', state, what, by)
end

local function json_list(items)
  return '[' .. table.concat(items, ',') .. ']'
end

-- Lines of history are kept as '<whose>:<json>'.
local function without_owner(lines)
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
  return json_list(without_owner(redis.call('LRANGE', conv .. ':h', -limit, -1)))
end

-- What steers a turn, as items {at, person, id, message, what `received` needs}.
local function steering_of(turn)
  local items = redis.call('LRANGE', conv .. ':g:' .. turn, 0, -1)
  for i, item in ipairs(items) do
    items[i] = cmsgpack.unpack(item)
  end
  return items
end

local function messages_of(items)
  local messages = {}
  for i, item in ipairs(items) do
    messages[i] = item[4]
  end
  return messages
end

-- A skill that waits for an answer is kept as ':<person>:<person>:\n<json>', with the people whose
-- words are in it.
local function split_waiting(waiting)
  return string.match(waiting or '', '^([^\n]*)\n(.*)$')
end
