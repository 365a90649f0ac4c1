-- ARGV: name, person, turn, the text as JSON, the policies, the prefix of the person indexes. Returns
-- 'revised', 'unchanged', 'unsettled', 'several' messages or 'unknown'.
local name, person, turn, text = unpack(ARGV, 1, 4)
local policies, person_indexes = cmsgpack.unpack(ARGV[5]), ARGV[6]
local key, CHUNK = conv .. ':h', 8
expires_at = tonumber(redis.call('HGET', conv, 'expires_at') or nil)

local is_own = false -- whether the person has written one of them

-- Returns the number of the turn's messages, the first of them, and its index.
local function find_messages()
  local count, found, index, is_found = 0, nil, nil, false
  local last = redis.call('LLEN', key)
  while last > 0 do
    local first = math.max(last - CHUNK, 0)
    local entries = redis.call('LRANGE', key, first, last - 1)
    for i = #entries, 1, -1 do
      local of = entries[i] ~= '' and turn_of(entries[i])
      if of == turn then
        is_found = true
        if string.find(entries[i], '^[^:]*:{"role":"user"') then
          count, found, index = count + 1, entries[i], first + i - 1
          is_own = is_own or string.sub(found, 1, #person + 1) == person .. ':'
        end
      elseif of and is_found then
        return count, found, index
      end
    end
    last = first
  end
  return count, found, index
end

if redis.call('LLEN', conv .. ':q') > 0 then
  return 'unsettled'
end
local count, entry, index = find_messages()
if count == 0 or redis.call('HEXISTS', superseded_key, turn) == 1 or not is_own then
  return 'unknown'
elseif count > 1 then
  return 'several'
end
local _, start = string.find(entry, '"text":', 1, true)
local stop = string.find(entry, '","turn":"', start, true)
local growth = #text - (stop - start)
if string.sub(entry, start + 1, stop) == text then
  return 'unchanged'
end
local excess = growth > 0 and exceeded_quota(person_indexes, person, policies, growth, true)
if excess then
  return redis.error_reply('STORAGE ' .. excess)
end
redis.call('LSET', key, index, string.sub(entry, 1, start) .. text .. string.sub(entry, stop + 1))
charge(person_indexes, person, name, growth)
begin_stream()
redis.call('PUBLISH', conv .. ':e', '[]')
return 'revised'
