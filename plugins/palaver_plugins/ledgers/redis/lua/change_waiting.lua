-- ARGV: name, the turn, its messages as they were read and as they are to be ('' for none), the place of
-- the changed one among them, its id as JSON, its new size and the new suffix of its event (0 and '' when
-- it is removed), the growth, the policies, the prefix of the person indexes, number of history entries
-- to keep. Returns 'changed', 'begun', or 'outdated' when the messages are others by now.
local name, turn, before, after = unpack(ARGV, 1, 4)
local place, id, size, suffix, growth = tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
local policies, person_indexes, history_kept = cmsgpack.unpack(ARGV[10]), ARGV[11], ARGV[12]
local key, stream, is_removed = conv .. ':t:' .. turn, conv .. ':s', suffix == ''
local MAX_STREAM_BYTES = 8000000

local running, offset, ends = unpack(redis.call('HMGET', conv, 'running', 'offset', 'expires_at'))
local messages, person, accepted_at, orders, index, successor = unpack(redis.call('HMGET', key,
  'messages', 'person', 'accepted_at', 'orders', 'index', 'successor'))
expires_at = tonumber(ends or nil)
if not messages or turn == running or index ~= '0' or successor or #steering_of(turn) > 0 then
  return 'begun'
elseif messages ~= before then
  return 'outdated'
elseif messages == after then
  return 'changed'
end
local excess = growth > 0 and exceeded_quota(person_indexes, person, policies, growth, true)
if excess then
  return redis.error_reply('STORAGE ' .. excess)
end

local function words_of(text)
  local words = {}
  for word in string.gmatch(text or '', '%S+') do
    words[#words + 1] = word
  end
  return words
end

local function change_turn()
  local times, entries = words_of(accepted_at), words_of(orders)
  if is_removed then
    table.remove(times, place)
    table.remove(entries, place)
  elseif entries[place] then
    entries[place] = string.gsub(entries[place], '%d+$', size)
  end
  redis.call('HSET', key, 'messages', after, 'count', #times,
    'accepted_at', table.concat(times, ' '), 'orders', table.concat(entries, ' '))
end

local function remove_turn()
  redis.call('LREM', conv .. ':q', 1, turn)
  redis.call('DEL', key, conv .. ':r:' .. turn, conv .. ':j:' .. turn)
  postpone_expiry(person_indexes, name, redis.call('LLEN', conv .. ':q') > 0)
  count('queued', -1)
  forget(turn, redis.call('LLEN', conv .. ':h') - 1)
  store_stopped_history(history_kept)
  if not running or running == '' then
    enqueue(name)
  end
end

-- Returns an event as it is to be; nil when it is that of the removed message.
local function changed_event(event)
  local start = '{"type":"message","turn":"' .. turn
  local own = start .. '","id":' .. id .. ','
  if string.sub(event, 1, #own) ~= own then
    return event
  end
  return not is_removed
    and start .. suffix .. string.match(string.sub(event, -100), '"moved":(.*)$') or nil
end

-- Keeps only the events of unsettled turns. The last offset stays.
local function rewrite_events()
  local unsettled, kept, read, last, entries = {}, {}, 0, '+', nil
  for _, each in ipairs(redis.call('LRANGE', conv .. ':q', 0, -1)) do
    unsettled[each] = true
  end
  repeat
    entries = redis.call('XREVRANGE', stream, last, '-', 'COUNT', 64)
    for _, entry in ipairs(entries) do
      local event = entry[2][2]
      local of = string.match(event, '^{"type":"[%w_]+","turn":"(%w+)"')
      kept[#kept + 1] = unsettled[of] and changed_event(event) or nil
      read, last = read + #event, '(' .. entry[1]
    end
  until #entries == 0 or read > MAX_STREAM_BYTES
  redis.call('DEL', stream)
  for i = #kept, 1, -1 do
    redis.call('XADD', stream, integer(offset - i + 1) .. '-0', 'e', kept[i])
  end
  set_expiry_within(stream, WEEK)
end

local function begin_epoch()
  erasures = redis.call('HINCRBY', state, 'erasures', 1)
  local generation = redis.call('HGET', conv, 'generation')
  local begins_later = string.sub(generation, -#BEGINS_LATER) == BEGINS_LATER
  redis.call('HSET', conv, 'generation', new_generation() .. (begins_later and BEGINS_LATER or ''))
end

charge(person_indexes, person, name, growth)
if after == '' then
  remove_turn()
else
  change_turn()
end
rewrite_events()
begin_epoch()
redis.call('PUBLISH', conv .. ':e', '[]')
return 'changed'
