-- KEYS: state, queue, conversation. ARGV: name, turn, id, digest, person, message, the event's
-- suffix, whether a skill is named, the policies, how many messages an interruption may gather, the
-- prefix of the person indexes, the key of the dead letter that the message comes from, or '', the
-- turn after which it continues, - or '', the list of the channel's records, the list of those that
-- are due, the message's order.
-- Returns the turn, how many come before it, whether the message is a duplicate, whether it joined.
local name, turn, id, digest, person, message, suffix = unpack(ARGV, 1, 7)
local names_skill, policies, limit, person_indexes = ARGV[8] == '1', cmsgpack.unpack(ARGV[9]),
  tonumber(ARGV[10]), ARGV[11]
local order = ARGV[16]
local unsettled_turns, records, record_order, members =
  conv .. ':q', conv .. ':m', conv .. ':o', conv .. ':u'
local time = now()

if policies.members_only and redis.call('SISMEMBER', members, person) == 0
  and redis.call('EXISTS', members) == 1 then
  return redis.error_reply('FORBIDDEN the conversation belongs to someone else')
end

local function is_in_dead_letter()
  local messages = redis.call('HGET', ARGV[12], 'messages')
  for _, pair in ipairs(messages and cmsgpack.unpack(messages) or {}) do
    if pair[1] == person then
      return true
    end
  end
  return false
end

if ARGV[12] ~= '' and not is_in_dead_letter() then
  return redis.error_reply('NOTFOUND it is not in the dead letter')
end

local function position_of(turn)
  return redis.call('LPOS', unsettled_turns, turn) or 0
end

-- A dedupe record: the turn that answers the message, the digest, the time, and the turn that was
-- offered. The last one identifies a repetition of an accept with a lost reply.
local record = redis.call('HGET', records, 'i' .. id)
if record then
  local first, known_digest, accepted_at, offered = string.match(
    record, '^(%S+) (%S+) (%S+) (%S+)$')
  if math.abs(time - tonumber(accepted_at)) < DAY then
    if known_digest ~= digest then
      return redis.error_reply('CONFLICT another body')
    end
    local is_repetition = offered == turn
    return {first, position_of(first), is_repetition and 0 or 1,
      is_repetition and first ~= turn and 1 or 0}
  end
end

local running, offset, ends = unpack(redis.call('HMGET', conv, 'running', 'offset', 'expires_at'))
local turns = redis.call('LRANGE', unsettled_turns, 0, -1)
running, expires_at = running or '', tonumber(ends)
-- The turns that the message supersedes; `after` is '' for none, '-' for the beginning.
local after, following, position = ARGV[13], nil, nil
if after ~= '' then
  if #turns == 0 then
    following, position = turns_after(after)
  end
  if #turns > 0 then
    return redis.error_reply('UNSETTLED ' .. name)
  elseif not following then
    return redis.error_reply('NOTINHISTORY ' .. after)
  elseif redis.call('HLEN', alternatives_key) >= MAX_ALTERNATIVES then
    return redis.error_reply('ALTERNATIVES ' .. redis.call('HLEN', alternatives_key))
  end
end
if count_waiting_messages(turns, running) >= policies.inbox_limit then
  return redis.error_reply('TOOMANY messages')
end
local size = unsettled_bytes(turns)
if size > 0 and size + #message > policies.inbox_bytes then
  return redis.error_reply('TOOMANY bytes of messages')
end

local is_member = redis.call('SISMEMBER', members, person) == 1
local excess = exceeded_quota(person_indexes, person, policies, #message, is_member)
if excess then
  return redis.error_reply('STORAGE ' .. excess)
end

-- Returns the turn that the message joins or steers.
local function turn_to_join(policy)
  if names_skill or #turns == 0 then
    return nil
  elseif (policy == 'merge' and turns[#turns] ~= running)
    or (policy ~= 'queue' and running == '') then
    local newest = read_turn(turns[#turns])
    if not newest.stop_requested and newest.person == person and time < newest.due_at then
      if policy == 'merge' then
        extend_window(newest, time, policies.merge_window)
      end
      join(newest, message, time, order)
      return newest
    end
  elseif policy == 'interrupt' and running ~= '' then
    local successor = successor_of(running)
    if successor and not successor.stop_requested and successor.person == person then
      join(successor, message, time, order)
      return successor
    end
  elseif policy == 'steer' and running ~= '' then
    local steered = read_turn(running)
    if not steered.stop_requested then
      redis.call('RPUSH', conv .. ':g:' .. running,
        cmsgpack.pack({integer(time), person, id, message, suffix}))
      set_expiry(conv .. ':g:' .. running)
      return steered
    end
  end
end

if policies.retention >= 0 and redis.call('HEXISTS', conv, 'generation') == 0 then
  redis.call('HSET', conv, 'retention', policies.retention)
end
postpone_expiry(person_indexes, name, true)
redis.call('HSETNX', conv, 'generation', new_generation())
local policy = policy_of(policies, running)
local joined = turn_to_join(policy)
local answering = joined
local ahead
if joined then
  ahead = position_of(joined.id)
else
  local place = place_in_order(order, turns)
  ahead = place - 1
  answering = {id = turn,
    due_at = time + (policy == 'merge' and policies.merge_window or policies.start_delay)}
  add_turn(turn, person, {message}, {integer(time)}, answering.due_at, number_at(place, turns),
    order_entry(order, message))
  local following = {unpack(turns, place)}
  for _, each in ipairs(following) do
    redis.call('LREM', unsettled_turns, -1, each)
  end
  redis.call('RPUSH', unsettled_turns, turn, unpack(following))
  if place == 1 then
    set_expiry(unsettled_turns)
  end
  if policy == 'interrupt' and running ~= '' then
    interrupt(running, turn, person, limit)
  end
end
if ahead == 0 and running == '' then
  redis.call('ZADD', queue, answering.due_at, name)
end
if following and continue_after(after, following, position, turn) then
  offset = 0
end
append_events(tonumber(offset or 0), {received(answering.id, suffix, false, ahead, time)})
set_expiry_within(conv .. ':s', WEEK)

local accepted_at = integer(time)
add_record('i' .. id, person, table.concat({answering.id, digest, accepted_at, turn}, ' '))
for _ = 1, 4 do
  local added_at, _, old = split_record_entry(redis.call('LINDEX', record_order, 0))
  if time - tonumber(added_at) < DAY then
    break
  end
  redis.call('LPOP', record_order)
  local stored = redis.call('HGET', records, old)
  local is_newer = stored and string.sub(old, 1, 1) == 'i'
    and string.match(stored, '^%S+ %S+ (%S+)') ~= added_at
  if not is_newer then
    redis.call('HDEL', records, old)
  end
end
if redis.call('SADD', members, person) == 1 then
  set_expiry(members)
  -- The indexes may still have an expired conversation of this name.
  release_size(person_indexes .. person, name)
  if redis.call('SCARD', members) == 1 then
    release_size(person_indexes, name)
  end
end
charge(person_indexes, person, name, #message)
local listed = list_key(person_indexes .. person)
if redis.call('ZADD', listed, 'GT', time, name) == 1 then
  index_conversation(person_indexes, person, name)
end
redis.call('HDEL', conv, 'archived:' .. person)
if policies.outbox then
  wake_outbox(ARGV[14], ARGV[15], 'outbox:' .. name, policies.outbox)
end
wake()
return {answering.id, ahead, 0, joined and 1 or 0}
