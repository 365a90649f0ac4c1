-- Memories: a hash per person, in the partition of the conversation whose turn wrote them, so that a
-- write compares the fence: key -> value. With several partitions, the field NUL .. key has the version
-- of the value or of its deletion, and NUL the highest one here; of several hashes about a person, the
-- one with the highest version of a key is right. An entry is {'m', '', person, key, value}.
local NUL = '\0'
local memory_prefix, memory_version

-- Returns whether every memory is about a person whose erasure ends the claim of the turn.
local function about_its_people(turn, entries)
  local people
  for _, entry in ipairs(entries) do
    if entry[1] == 'm' then
      if not people then
        people = {[redis.call('HGET', conv .. ':t:' .. turn, 'person')] = true}
        for _, item in ipairs(steering_of(turn)) do
          people[item[2]] = true
        end
        local asked = split_question(redis.call('HGET', conv, 'pending_question'))
        for person in string.gmatch(asked or '', '[^:]+') do
          people[person] = true
        end
      end
      if not people[entry[3]] then
        return false
      end
    end
  end
  return true
end

local function write_memory(entry)
  local key, field, value = memory_prefix .. entry[3], entry[4], entry[5]
  if value then
    redis.call('HSET', key, field, value)
  else
    redis.call('HDEL', key, field)
  end
  if memory_version ~= '' then
    local version = math.max(tonumber(memory_version), tonumber(redis.call('HGET', key, NUL) or 0)) + 1
    redis.call('HSET', key, NUL .. field, integer(version), NUL, integer(version))
  end
  if retention > 0 then
    redis.call('PEXPIREAT', key, retention_now() + retention)
  else
    redis.call('PERSIST', key)
  end
end
