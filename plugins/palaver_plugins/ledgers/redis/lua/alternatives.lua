-- Branches. ':v' of a conversation maps each superseded turn to the alternative that it came after, or
-- is; ':f' maps each alternative to '<its position in the history> <the turn before it, or ->'.
local superseded_key, alternatives_key = conv .. ':v', conv .. ':f'

-- Returns how many entries the history had before its first one.
local function end_of_trimmed()
  return tonumber(redis.call('HGET', conv, 'trimmed') or 0)
end

local function parent_of(alternative)
  return string.match(redis.call('HGET', alternatives_key, alternative) or '', '^%d+ (%S+)$')
end

local function add_alternative(turn, position, parent)
  redis.call('HSETNX', alternatives_key, turn, integer(position) .. ' ' .. parent)
  set_expiry(alternatives_key)
end

-- Returns the nearest turn of the history from the index `at` on, in the direction `step`, that has
-- the same alternative as `turn` in ':v', and its index.
local function neighbour(turn, at, step, alternative)
  local entry = redis.call('LINDEX', conv .. ':h', at)
  while at >= 0 and entry do
    local other = entry ~= '' and turn_of(entry)
    if other and other ~= turn and redis.call('HGET', superseded_key, other) == alternative then
      return other, at
    end
    at = at + step
    entry = redis.call('LINDEX', conv .. ':h', at)
  end
end

-- Lets `heir`, the turn at that position after an erased alternative, take its place.
local function replace_alternative(turn, parent, heir, position)
  redis.call('HDEL', alternatives_key, turn)
  if heir then
    add_alternative(heir, position, parent)
  end
end

local function replace_parent(turn, parent)
  local found = redis.call('HGETALL', alternatives_key)
  for i = 1, #found, 2 do
    local position, before = string.match(found[i + 1], '^(%d+) (%S+)$')
    if before == turn then
      redis.call('HSET', alternatives_key, found[i], position .. ' ' .. parent)
    end
  end
end

-- Replaces an alternative in ':v'; returns whether that has it.
local function replace_in_superseded(alternative, heir)
  local turns, has_it = redis.call('HGETALL', superseded_key), false
  for i = 1, #turns, 2 do
    if turns[i + 1] == alternative and turns[i] ~= alternative then
      has_it = true
      if heir then
        redis.call('HSET', superseded_key, turns[i], heir)
      end
    end
  end
  return has_it
end

-- Lets what follows a turn, which was erased from the history at that index, take its place among the
-- alternatives.
local function forget(turn, index)
  local alternative, parent = redis.call('HGET', superseded_key, turn), parent_of(turn)
  local before = parent or neighbour(turn, index - 1, -1, alternative) or '-'
  replace_parent(turn, before)
  if parent then
    local heir, position
    if alternative ~= turn or replace_in_superseded(turn) then
      heir, position = neighbour(turn, index + 1, 1, alternative)
    end
    if not heir and not alternative then
      heir, position = redis.call('LINDEX', conv .. ':q', 0), redis.call('LLEN', conv .. ':h')
    end
    replace_alternative(turn, parent, heir, end_of_trimmed() + (position or 0))
    if heir and alternative == turn then
      replace_in_superseded(turn, heir)
    end
  end
  redis.call('HDEL', superseded_key, turn)
end

-- Forgets the turns of the first `excess` entries, which are trimmed.
local function forget_trimmed(excess)
  if redis.call('EXISTS', alternatives_key) == 0 then
    return
  end
  local next_entry = redis.call('LINDEX', conv .. ':h', excess)
  local kept, last = next_entry and turn_of(next_entry), nil
  for i, entry in ipairs(redis.call('LRANGE', conv .. ':h', 0, excess - 1)) do
    local turn = turn_of(entry)
    if turn and turn ~= kept and turn ~= last then
      forget(turn, i - 1)
      last = turn
    end
  end
end
