-- Dead letters: the newest of a partition, each a hash that expires by itself. The last of KEYS
-- (but for the one that never is) is the set of their turns, by when they were given up.
local letters, LETTERS, MONTH = KEYS[#KEYS - 1], 1000, 30 * 86400000

local function letter_key(turn)
  return letters .. ':' .. turn
end

local function forget_letter(turn)
  redis.call('ZREM', letters, turn)
  return redis.call('DEL', letter_key(turn))
end

-- Calls `visit` with turn and fields of every letter, the newest first, until it returns true.
local function each_letter(visit)
  for _, turn in ipairs(redis.call('ZRANGE', letters, 0, -1, 'REV')) do
    local fields = redis.call('HGETALL', letter_key(turn))
    local letter = {}
    for i = 1, #fields, 2 do
      letter[fields[i]] = fields[i + 1]
    end
    if #fields == 0 then
      redis.call('ZREM', letters, turn)
    elseif visit(turn, letter) then
      return
    end
  end
end

-- The messages of a letter that a person has sent, and the others.
local function split_letter(letter, person)
  local theirs, others = {}, {}
  for _, pair in ipairs(cmsgpack.unpack(letter.messages)) do
    local list = pair[1] == person and theirs or others
    list[#list + 1] = pair
  end
  return theirs, others
end
