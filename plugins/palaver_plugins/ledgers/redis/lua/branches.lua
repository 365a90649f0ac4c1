local MAX_ALTERNATIVES, CHUNK = 200, 100

-- Returns the turns of the stored history with the numbers `first` to `last`, and their numbers.
local function read_turns(first, last)
  local turns, numbers = {}, {}
  for i, entry in ipairs(redis.call('LRANGE', conv .. ':h', first, last)) do
    local turn = entry ~= '' and turn_of(entry)
    if turn and turn ~= turns[#turns] then
      turns[#turns + 1], numbers[#numbers + 1] = turn, first + i - 1
    end
  end
  return turns, numbers
end

-- Returns the turns of the history after `parent`, newest first, and the position of the oldest of
-- them; nil when it has no such turn.
local function turns_after(parent)
  local last, found, position = redis.call('LLEN', conv .. ':h') - 1, {}, 0
  local trimmed = end_of_trimmed()
  while last >= 0 do
    local first = math.max(0, last - CHUNK + 1)
    local turns, numbers = read_turns(first, last)
    local superseded = #turns > 0 and redis.call('HMGET', superseded_key, unpack(turns))
    for i = #turns, 1, -1 do
      if not superseded[i] then
        if turns[i] == parent then
          return found, position
        end
        position = trimmed + numbers[i]
        if turns[i] ~= found[#found] then
          found[#found + 1] = turns[i]
        end
      end
    end
    last = first - 1
  end
  return parent == '-' and found or nil, position
end

-- Supersedes turns that follow `parent`; see `turns_after`.
local function supersede(parent, newest_first, position)
  local oldest = newest_first[#newest_first]
  if oldest then
    add_alternative(oldest, position, parent)
  end
  for first = 1, #newest_first, CHUNK do
    local fields = {}
    for i = first, math.min(first + CHUNK - 1, #newest_first) do
      fields[#fields + 1], fields[#fields + 2] = newest_first[i], oldest
    end
    redis.call('HSET', superseded_key, unpack(fields))
  end
end

-- Restores an alternative, and before it those after which it came.
local function restore(alternative)
  local parent = parent_of(alternative)
  local before = redis.call('HGET', superseded_key, parent)
  if before then
    restore(before)
  end
  supersede(parent, turns_after(parent))
  local pairs_of, turns = redis.call('HGETALL', superseded_key), {}
  for i = 1, #pairs_of, 2 do
    if pairs_of[i + 1] == alternative then
      turns[#turns + 1] = pairs_of[i]
    end
  end
  for first = 1, #turns, CHUNK do
    redis.call('HDEL', superseded_key, unpack(turns, first, math.min(first + CHUNK - 1, #turns)))
  end
end

-- Begins an empty stream of another epoch, without the pending question.
local function begin_stream()
  erasures = redis.call('HINCRBY', state, 'erasures', 1)
  redis.call('UNLINK', conv .. ':s')
  redis.call('HDEL', conv, 'pending_question')
  redis.call('HSET', conv, 'generation', new_generation() .. BEGINS_LATER, 'offset', 0)
  set_expiry(superseded_key)
end

-- Supersedes what comes after `parent`, for the turn `new`; see `turns_after`.
local function continue_after(parent, following, position, new)
  if #following > 0 then
    supersede(parent, following, position)
    add_alternative(new, end_of_trimmed() + redis.call('LLEN', conv .. ':h'), parent)
    begin_stream()
    return true
  end
  return false
end
