-- ARGV: name, turn, fence, expected index, entries, the closing: {outcome, messages = {{person,
-- text, attachments}, …} of the turn's own messages and the taken ones, taken = ids of the taken steering
-- messages, question, people, next_turn, dead_letter = {reason, {{person, message}, …}, code points
-- of the reply to keep, mark of a cut, prefix of indexes}, person_indexes, memories, memory_version, parts, events_kept,
-- history_kept}.
-- Returns index, offset, stop requested, number of steering messages.
local expect, digest = tonumber(ARGV[4]), redis.sha1hex(ARGV[5])
local records = conv .. ':m'
local entries, closing = cmsgpack.unpack(ARGV[5]), cmsgpack.unpack(ARGV[6])
if not is_owner then
  local by, expected, written, index, offset, stop_requested, steering_count = string.match(
    redis.call('HGET', records, 't' .. turn) or '',
    '^(%d+) (%d+) (%x+) (%d+) (%d+) (%d) (%d+)$')
  if by ~= fence then
    return redis.error_reply('FENCED the claim is over')
  end
  if tonumber(expected) ~= expect or written ~= digest then
    return redis.error_reply('INDEX ' .. index)
  end
  return {tonumber(index), tonumber(offset), tonumber(stop_requested), tonumber(steering_count)}
end

local key, reply_key = conv .. ':t:' .. turn, conv .. ':r:' .. turn
local stored_index, length, stop_requested, accepted_at, person, attempt, messages,
  interrupted_count, interrupted, successor, number = unpack(redis.call('HMGET', key, 'index',
    'length', 'stop_requested', 'accepted_at', 'person', 'attempt', 'messages', 'interrupted_count',
    'interrupted', 'successor', 'number'))
local index = tonumber(stored_index)
if index ~= expect then
  return redis.error_reply('INDEX ' .. stored_index)
end
if not length_after(entries, tonumber(length)) then
  return redis.error_reply('TEXT it does not continue')
end
local steering = steering_of(turn)
for i, id in ipairs(closing.taken) do
  if not steering[i] or steering[i][3] ~= id then
    return redis.error_reply('INDEX ' .. stored_index .. ', and has no such steering message')
  end
end
if not about_its_people(turn, entries) then
  return redis.error_reply('FORBIDDEN the turn has no words of the person of a memory')
end

memory_prefix, memory_version = closing.memories, closing.memory_version
postpone_expiry(closing.person_indexes, name, redis.call('LLEN', conv .. ':q') > 1)
local events = apply(turn, entries)
local skill = redis.call('HGET', key, 'skill') or ''
local reply = redis.call('GET', reply_key) or ''
local time = now()
index = index + #entries

-- Returns when the messages of the turn, and those that it took, were accepted.
local function message_times()
  local times = {}
  for moment in string.gmatch(accepted_at, '%d+') do
    times[#times + 1] = moment
  end
  for i = 1, #closing.taken do
    times[#times + 1] = steering[i][1]
  end
  return times
end

local function history_entries()
  local times, entries = message_times(), {}
  for i, message in ipairs(closing.messages) do
    entries[i] = user_entry(turn, message[1], message[2], times[i], message[3])
  end
  entries[#entries + 1] = reply_entry(
    turn, person, cjson.encode(reply), cjson.encode(skill), closing.outcome, closing.parts)
  return entries
end

local function store_question()
  if closing.question == '' then
    redis.call('HDEL', conv, 'pending_question')
    return
  end
  local people = split_question(redis.call('HGET', conv, 'pending_question')) or ''
  redis.call('HSET', conv, 'pending_question',
    people .. closing.people .. '\n' .. closing.question)
end

-- Passes the messages of a stopped turn on to its successor.
local function pass_messages_on()
  local next_key = successor and conv .. ':t:' .. successor
  if closing.outcome == 'stopped' and next_key and redis.call('EXISTS', next_key) == 1 then
    local passed = #message_times() - #closing.taken + tonumber(interrupted_count or 0)
    redis.call('HSET', next_key, 'interrupted_count', passed,
      'interrupted', (interrupted and interrupted .. ',' or '') .. messages)
  end
end

store_history(history_entries(), closing.history_kept)
if redis.call('SISMEMBER', conv .. ':u', person) == 1 then
  charge(closing.person_indexes, person, name, #reply)
end
if closing.dead_letter then
  store_dead_letter(turn, person, closing.dead_letter, attempt, reply, skill, time)
end
redis.call('LPOP', conv .. ':q')
redis.call('DEL', key, reply_key, conv .. ':j:' .. turn, conv .. ':g:' .. turn)
end_claim()
count('running', -1)
store_question()
pass_messages_on()
local untaken = {unpack(steering, #closing.taken + 1)}
if #untaken > 0 then
  for _, event in ipairs(move_steering(untaken, closing.next_turn, number or 0)) do
    events[#events + 1] = event
  end
end
store_stopped_history(closing.history_kept)
local offset = append_events(tonumber(last_offset), events)
redis.call('XTRIM', conv .. ':s', 'MAXLEN', closing.events_kept)
set_expiry_within(conv .. ':s', WEEK)
add_record('t' .. turn, person, table.concat({
  fence, integer(expect), digest, integer(index), integer(offset), stop_requested, #steering}, ' '))
enqueue(name)
return {index, offset, tonumber(stop_requested), #steering}
