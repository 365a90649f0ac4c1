-- ARGV: person, turn, the feedback as JSON without its end, the position before which to look for the
-- reply, or '', the bytes after which a search ends, the limit of the bytes of a member's feedback.
-- Returns 'stored' or 'duplicate' and the JSON, 'full', 'unknown' turn, 'more' and the position to go on
-- at, or nil when the person is no member.
local person, turn, body, before, size, limit = unpack(ARGV, 1, 6)
local CHUNK = 8
if redis.call('SISMEMBER', conv .. ':u', person) == 0 then
  return nil
end
expires_at = tonumber(redis.call('HGET', conv, 'expires_at') or nil)

-- Returns the turn's reply, or nil and the position to go on at, 0 when there are no more entries.
local function find_reply(left)
  local trimmed = tonumber(redis.call('HGET', conv, 'trimmed') or 0)
  local last = before == '' and redis.call('LLEN', conv .. ':h') or tonumber(before) - trimmed
  while last > 0 and left > 0 do
    local first = math.max(last - CHUNK, 0)
    local entries = redis.call('LRANGE', conv .. ':h', first, last - 1)
    for i = #entries, 1, -1 do
      left = left - #entries[i]
      if rated_turn_of(entries[i]) == turn then
        return entries[i]
      end
    end
    last = first
  end
  return nil, last > 0 and trimmed + last or 0
end

local function bytes_of_others(key)
  local bytes, found = 0, redis.call('HGETALL', key)
  for i = 1, #found, 2 do
    bytes = bytes + (found[i] == turn and 0 or #found[i + 1])
  end
  return bytes
end

local reply, position = find_reply(tonumber(size))
if not reply then
  return position > 0 and {'more', position} or {'unknown'}
end
local skill = string.match(reply, '"skill":("[^"]*")')
local key = conv .. ':l:' .. person
local stored = redis.call('HGET', key, turn)
body = table.concat({body, ',"skill":', skill or '""', ',"at":'})
if stored and string.sub(stored, 1, #body) == body then
  return {'duplicate', stored}
end
local given = body .. json_time(now()) .. '}'
if bytes_of_others(key) + #given > tonumber(limit) then
  return {'full'}
end
redis.call('HSET', key, turn, given)
set_expiry(key)
return {'stored', given}
