-- KEYS: state, queue, conversation, the person's index. ARGV: name, person, the id of a turn that
-- may have to be made, number of history entries to keep, the position up to which erase_some.lua has
-- read the history, the turns of the replies that it kept. Returns the number of removed messages and
-- events, and whether the person was a member. Bounded: it reads the history that came since, the newest
-- events, the waiting messages and the dedupe records of a day.
local name, person, next_turn, history_kept = unpack(ARGV, 1, 4)
local position, kept_before = tonumber(ARGV[5]), ARGV[6]
local owner, MAX_STREAM_BYTES = person .. ':', 8000000
local unsettled_turns, history, stopped, stream, records, record_order, members =
  conv .. ':q', conv .. ':h', conv .. ':w', conv .. ':s', conv .. ':m', conv .. ':o', conv .. ':u'
local CHUNK = 500
expires_at = tonumber(redis.call('HGET', conv, 'expires_at'))

if redis.call('SISMEMBER', members, person) == 0 then
  redis.call('ZREM', KEYS[4], name)
  return {0, 0, 0}
end

-- `kept_turns`: the turns, settled or not, that answer other people.
local kept_turns, erased_turns, messages = {}, {}, 0
local running = redis.call('HGET', conv, 'running') or ''
local turns = redis.call('LRANGE', unsettled_turns, 0, -1)
local oldest = turns[1]
local oldest_number = oldest and redis.call('HGET', conv .. ':t:' .. oldest, 'number')

local function turn_key(turn)
  return conv .. ':t:' .. turn
end

local function replace_list(key, values)
  redis.call('DEL', key)
  for i = 1, #values, CHUNK do
    redis.call('RPUSH', key, unpack(values, i, math.min(i + CHUNK - 1, #values)))
  end
end

-- Returns the steering messages of others, and whether the person steers the oldest turn.
local function split_steering()
  local others, has_theirs = {}, false
  for _, item in ipairs(oldest and steering_of(oldest) or {}) do
    if item[2] == person then
      has_theirs, messages = true, messages + 1
    else
      others[#others + 1] = item
    end
  end
  return others, has_theirs
end

-- Deletes the pending question if the person has words in it. Returns whether the oldest turn may
-- have used them.
local function delete_question()
  local people = split_question(redis.call('HGET', conv, 'pending_question'))
  if not people or not string.find(people, ':' .. person .. ':', 1, true) then
    return false
  end
  redis.call('HDEL', conv, 'pending_question')
  return oldest and (running ~= '' or redis.call('HGET', turn_key(oldest), 'index') ~= '0')
end

local function delete_turns()
  for _, turn in ipairs(turns) do
    local author, own = unpack(redis.call('HMGET', turn_key(turn), 'person', 'count'))
    if author == person then
      messages = messages + tonumber(own)
      erased_turns[#erased_turns + 1] = turn
      redis.call('LREM', unsettled_turns, 1, turn)
      redis.call('UNLINK', turn_key(turn), conv .. ':r:' .. turn, conv .. ':j:' .. turn,
        conv .. ':g:' .. turn)
      count(turn == running and 'running' or 'queued', -1)
    else
      kept_turns[turn] = true
    end
  end
end

local function reset_turn(turn)
  redis.call('DEL', conv .. ':r:' .. turn, conv .. ':j:' .. turn)
  redis.call('HSET', turn_key(turn), 'index', 0, 'length', 0)
  redis.call('HDEL', turn_key(turn), 'skill', 'last_write', 'last_write_offset')
  if turn == running then
    redis.call('HINCRBY', turn_key(turn), 'attempt', -1)
    count('running', -1)
    count('queued', 1)
  end
end

local function erase_history()
  local trimmed = tonumber(redis.call('HGET', conv, 'trimmed') or 0)
  local removed, kept = erase_some_history(owner, math.max(position - trimmed, 0), math.huge)
  messages = messages + removed
  for _, list in ipairs({kept, cmsgpack.unpack(kept_before)}) do
    for _, turn in ipairs(list) do
      kept_turns[turn] = true
    end
  end
  for _, item in ipairs(redis.call('ZRANGE', stopped, 0, -1)) do
    local author, turn, entries = unpack(cmsgpack.unpack(item))
    if author == person then
      messages = messages + #entries - 1
      redis.call('ZREM', stopped, item)
    else
      kept_turns[turn] = true
    end
  end
end

local function is_kept(event)
  local kind, turn = string.match(event, '^{"type":"([%w_]+)","turn":"(%w+)"')
  if kind == 'message' then
    return cjson.decode(event).person ~= person
  end
  return kept_turns[turn]
end

-- Deletes the oldest events beyond MAX_STREAM_BYTES.
local function trim_stream()
  local size, last = 0, '+'
  while true do
    local entries = redis.call('XREVRANGE', stream, last, '-', 'COUNT', 16)
    if #entries == 0 then
      return
    end
    for _, entry in ipairs(entries) do
      size = size + #entry[2][2]
      if size > MAX_STREAM_BYTES then
        redis.call('XTRIM', stream, 'MINID', integer(string.match(entry[1], '^%d+') + 1))
        return
      end
      last = '(' .. entry[1]
    end
  end
end

-- Rewrites the stream, without a gap; its new generation makes clients take a snapshot.
local function erase_events(moved)
  local before = redis.call('XLEN', stream)
  trim_stream()
  local kept, all = {}, redis.call('XRANGE', stream, '-', '+')
  for _, entry in ipairs(all) do
    if is_kept(entry[2][2]) then
      kept[#kept + 1] = entry[2][2]
    end
  end
  local erased = before - #kept
  for _, event in ipairs(moved) do
    kept[#kept + 1] = event
  end
  redis.call('DEL', stream)
  for i, event in ipairs(kept) do
    redis.call('XADD', stream, i .. '-0', 'e', event)
  end
  set_expiry_within(stream, WEEK)
  redis.call('HSET', conv, 'offset', #kept)
  return erased
end

local function erase_records()
  local kept = {}
  for _, entry in ipairs(redis.call('LRANGE', record_order, 0, -1)) do
    local _, author, record = split_record_entry(entry)
    if author == person then
      redis.call('HDEL', records, record)
    else
      kept[#kept + 1] = entry
    end
  end
  replace_list(record_order, kept)
  set_expiry_within(record_order, DAY)
end

local others, steers = split_steering()
local resumes = delete_question()
delete_turns()
erase_history()
redis.call('ZREM', KEYS[4], name)
local tenant_index = string.sub(KEYS[4], 1, -#person - 1)
local size = release_size(KEYS[4], name)
local sizes = sizes_key(tenant_index)
if size > 0 and redis.call('HEXISTS', sizes, name) == 1 then
  redis.call('HINCRBY', sizes, name, integer(-size))
  redis.call('HINCRBY', sizes, '', integer(-size))
end
delete_shared(tenant_index)
redis.call('HDEL', conv, 'pinned:' .. person, 'archived:' .. person)
redis.call('UNLINK', conv .. ':l:' .. person)
erasures = redis.call('HINCRBY', state, 'erasures', 1)
local events
if redis.call('SCARD', members) == 1 then
  events = redis.call('XLEN', stream)
  if running ~= '' then
    end_claim()
  end
  redis.call('UNLINK', conv, unsettled_turns, history, stopped, stream, records, record_order, members,
    superseded_key, alternatives_key, conv .. ':b')
  redis.call('ZREM', queue, name)
  redis.call('ZREM', tenant_index, name)
  release_size(tenant_index, name)
else
  local moved, keeps_oldest = {}, oldest and kept_turns[oldest]
  if oldest and not keeps_oldest and #others > 0 then
    moved = move_steering(others, next_turn, oldest_number or 0)
  elseif keeps_oldest and (steers or resumes) then
    reset_turn(oldest)
    replace_steering(oldest, others)
    kept_turns[oldest] = nil
  end
  local settled = end_of_trimmed() + redis.call('LLEN', history)
  store_stopped_history(history_kept)
  for _, turn in ipairs(erased_turns) do
    forget(turn, settled - end_of_trimmed() - 1)
  end
  events = erase_events(moved)
  erase_records()
  redis.call('SREM', members, person)
  local begins_later = string.sub(redis.call('HGET', conv, 'generation'), -#BEGINS_LATER) == BEGINS_LATER
  redis.call('HSET', conv, 'generation', new_generation() .. (begins_later and BEGINS_LATER or ''))
  if running ~= '' and not kept_turns[running] then
    end_claim()
    running = ''
  end
  if running == '' then
    enqueue(name)
  end
end
redis.call('PUBLISH', conv .. ':e', '[]')
wake()
return {messages, events, 1}
