-- ARGV: name turn fence expect lease(ms) entries. Returns index, offset, stop, steering.
if not owned then
  return redis.error_reply('FENCED the claim is over')
end
local expect, lease = tonumber(ARGV[4]), tonumber(ARGV[5])
local key, offset = conv .. ':t:' .. turn, tonumber(held[3])
local at, length, stop, last, reached = unpack(
  redis.call('HMGET', key, 'index', 'length', 'stop', 'last', 'reached'))
local index = tonumber(at)
local steering = redis.call('LLEN', conv .. ':g:' .. turn)

-- The answer, with the lease renewed: a write that is refused renews nothing.
local function progress(index, offset)
  redis.call('ZADD', queue, now() + lease, name)
  return {index, offset, tonumber(stop), steering}
end

local write = ARGV[4] .. ' ' .. redis.sha1hex(ARGV[6])
if index ~= expect then
  if last == write then
    return progress(index, tonumber(reached))
  end
  return redis.error_reply('INDEX ' .. at)
end
if ARGV[6] == '' then
  return progress(index, offset)
end

local entries = cmsgpack.unpack(ARGV[6])
length = length_after(entries, tonumber(length))
if not length then
  return redis.error_reply('TEXT it does not continue')
end
offset = emit(offset, apply(turn, entries))
index = index + #entries
redis.call('HSET', key, 'index', index, 'length', length, 'last', write, 'reached', offset)
return progress(index, offset)
