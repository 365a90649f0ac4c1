-- Start of every script. KEYS: the partition's state and queue, then the conversation.
-- State, a hash: run_id, epoch, erasures, retention (ms, 0 for ever), seen_at (see expiry), queued,
-- running, owners and owners_checked_at (see claim). Queue, a sorted set: conversation -> when it is due, in ms: the end
-- of a merge window, of a lease, or the time since which a turn waits.
-- The keys of a conversation are its key with a suffix; ids contain no colon, so none collide.
local state, queue, conv = KEYS[1], KEYS[2], KEYS[3]
local epoch, erasures, retention, seen_at = unpack(
  redis.call('HMGET', state, 'epoch', 'erasures', 'retention', 'seen_at'))
if not epoch then
  return redis.error_reply('NOEPOCH the store is new')
end
retention = tonumber(retention or 0)

-- Returns the time of this step in ms.
local step_time
local function now()
  if not step_time then
    local time = redis.call('TIME')
    step_time = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return step_time
end

-- Concatenation would round a number of more than 14 digits.
local function integer(number)
  return string.format('%.0f', number)
end

local function json_time(ms)
  return string.format('%.3f', ms / 1000)
end

-- End of the generation of a stream that begins after the conversation; see `palaver.messages`.
local BEGINS_LATER = '-later'

-- Returns what distinguishes a conversation that begins now from an earlier one of its name, which
-- was erased or has expired. An expired one was inactive for as long as the retention, so that it
-- began in an earlier period of that length.
local function new_generation()
  local period = retention > 0 and math.floor(now() / retention) or 0
  return string.format('%s.%d', erasures or '0', period)
end

-- Returns a stream's epoch: the partition's epoch and the conversation's generation.
local function epoch_of(generation)
  return epoch .. '-' .. (generation or new_generation())
end

local function count(field, by)
  redis.call('HINCRBY', state, field, by)
end

local function json_list(items)
  return '[' .. table.concat(items, ',') .. ']'
end

-- Returns the steering messages of a turn, as items {accepted_at, person, id, message, suffix of the
-- event; see `received`}.
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

-- A pending question is stored as ':<person>:<person>:\n<json>', with the people who have words in
-- it.
local function split_question(question)
  return string.match(question or '', '^([^\n]*)\n(.*)$')
end

-- Returns the turn of a history entry, as the history stores it.
local function turn_of(entry)
  return string.match(entry, '","turn":"(%w+)","at":')
end
