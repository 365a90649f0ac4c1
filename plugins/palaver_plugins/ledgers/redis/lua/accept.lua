-- KEYS: state, queue, conversation, the sender's index of conversations.
-- ARGV: name turn id digest sender message received limit remembered(ms)
local name, turn, id, digest, sender = unpack(ARGV, 1, 5)
local limit, remembered = tonumber(ARGV[8]), tonumber(ARGV[9])
local waiting, marks, order = conv .. ':q', conv .. ':m', conv .. ':o'
local time = now()

local function place_of(turn)
  return redis.call('LPOS', waiting, turn) or 0
end

local mark = redis.call('HGET', marks, 'i' .. id)
if mark then
  local first, said, at = string.match(mark, '^(%S+) (%S+) (%S+)$')
  if time - tonumber(at) < remembered then
    if said ~= digest then
      return redis.error_reply('CONFLICT another body')
    end
    return {first, place_of(first), first == turn and 0 or 1}
  end
end

local running, offset = unpack(redis.call('HMGET', conv, 'running', 'offset'))
local busy = running and running ~= ''
local ahead = redis.call('LLEN', waiting)
if ahead - (busy and 1 or 0) >= limit then
  return redis.error_reply('TOOMANY messages wait')
end

redis.call('HSETNX', conv, 'birth', erasures or '0')
redis.call('RPUSH', waiting, turn)
redis.call('HSET', conv .. ':t:' .. turn, 'message', ARGV[6], 'sender', sender,
  'at', string.format('%.0f', time), 'index', 0, 'length', 0, 'attempt', 0, 'stop', 0)
redis.call('SADD', conv .. ':u', sender)
redis.call('SADD', KEYS[4], name)
count('queued', 1)
if ahead == 0 then
  redis.call('ZADD', queue, time, name)
end
emit(tonumber(offset or 0), {ARGV[7] .. ahead .. '}'})

-- The marks of one turn: 'i<id>' of its message, 't<turn>' of its settlement; ordered by age.
redis.call('HSET', marks, 'i' .. id,
  table.concat({turn, digest, string.format('%.0f', time)}, ' '))
redis.call('RPUSH', order, table.concat({string.format('%.0f', time), turn, sender, id}, ':'))
for _ = 1, 4 do
  local oldest = redis.call('LINDEX', order, 0)
  local at, old, _, message = string.match(oldest, '^(%d+):(%w+):([^:]+):(.*)$')
  if time - tonumber(at) < remembered then
    break
  end
  redis.call('LPOP', order)
  local kept = redis.call('HGET', marks, 'i' .. message)
  if kept and string.sub(kept, 1, #old) == old then
    redis.call('HDEL', marks, 'i' .. message)
  end
  redis.call('HDEL', marks, 't' .. old)
end
redis.call('PEXPIRE', marks, remembered)
redis.call('PEXPIRE', order, remembered)
wake()
return {turn, ahead, 0}
