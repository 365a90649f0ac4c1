-- ARGV: name turn fence expect lease(ms) entries. Returns index, offset, stop.
if not owned then
  return redis.error_reply('FENCED the claim is over')
end
local expect, lease = tonumber(ARGV[4]), tonumber(ARGV[5])
local key, offset = conv .. ':t:' .. turn, tonumber(held[3])
local at, length, stop, last, reached = unpack(
  redis.call('HMGET', key, 'index', 'length', 'stop', 'last', 'reached'))
local index = tonumber(at)
redis.call('ZADD', queue, now() + lease, name)

if ARGV[6] == '' then
  if index ~= expect then
    return redis.error_reply('INDEX ' .. at)
  end
  return {index, offset, tonumber(stop)}
end

local entries = cmsgpack.unpack(ARGV[6])
if index ~= expect then
  if last == ARGV[4] and expect + #entries == index then
    return {index, tonumber(reached), tonumber(stop)}
  end
  return redis.error_reply('INDEX ' .. at)
end
length = length_after(entries, tonumber(length))
if not length then
  return redis.error_reply('TEXT it does not continue')
end
offset = emit(offset, apply(turn, entries))
index = index + #entries
redis.call('HSET', key, 'index', index, 'length', length, 'last', ARGV[4], 'reached', offset)
return {index, offset, tonumber(stop)}
