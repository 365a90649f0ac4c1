-- Dead letters: the newest of a partition, each a hash that expires by itself. The last but one of
-- KEYS is the sorted set of their turns, by the time at which they were given up.
local dead_letters, MONTH = KEYS[#KEYS - 1], 30 * 86400000
local MAX_DEAD_LETTERS, MAX_DEAD_LETTER_BYTES = 1000, 16777216

local function dead_letter_key(turn)
  return dead_letters .. ':' .. turn
end

local function delete_dead_letter(turn)
  redis.call('ZREM', dead_letters, turn)
  return redis.call('DEL', dead_letter_key(turn))
end

-- Calls `visit` with turn and fields of every dead letter, newest first, until it returns true.
local function each_dead_letter(visit)
  for _, turn in ipairs(redis.call('ZRANGE', dead_letters, 0, -1, 'REV')) do
    local fields = redis.call('HGETALL', dead_letter_key(turn))
    local letter = {}
    for i = 1, #fields, 2 do
      letter[fields[i]] = fields[i + 1]
    end
    if #fields == 0 then
      redis.call('ZREM', dead_letters, turn)
    elseif visit(turn, letter) then
      return
    end
  end
end

-- Adds a dead letter, which ends at `ends`, to the index of each person who has messages in it or
-- whose turn it was. The indexes expire at `index_ends`.
local function index_dead_letter(indexes, turn, person, messages, ends, index_ends)
  local people = {[person] = true}
  for _, pair in ipairs(messages) do
    people[pair[1]] = true
  end
  for each in pairs(people) do
    redis.call('ZADD', indexes .. each, ends, turn)
    redis.call('PEXPIREAT', indexes .. each, index_ends)
  end
end

local function json_of(messages)
  local found = {}
  for i, pair in ipairs(messages) do
    found[i] = pair[2]
  end
  return found
end

-- Returns the messages of a dead letter, as it stores them, that the person sent, and the others.
local function split_messages(messages, person)
  local theirs, others = {}, {}
  for _, pair in ipairs(cmsgpack.unpack(messages)) do
    local list = pair[1] == person and theirs or others
    list[#list + 1] = pair
  end
  return theirs, others
end
