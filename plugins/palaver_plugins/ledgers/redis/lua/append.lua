-- ARGV: name, turn, fence, expected index, lease (ms), entries, prefix of memories, their version.
-- Returns index, offset, stop requested, number of steering messages.
if not is_owner then
  return redis.error_reply('FENCED the claim is over')
end
local expect, lease = tonumber(ARGV[4]), tonumber(ARGV[5])
local key, offset = conv .. ':t:' .. turn, tonumber(last_offset)
local stored_index, length, stop_requested, last_write, last_write_offset = unpack(redis.call(
  'HMGET', key, 'index', 'length', 'stop_requested', 'last_write', 'last_write_offset'))
local index = tonumber(stored_index)
local steering_count = redis.call('LLEN', conv .. ':g:' .. turn)

-- Renews the lease, and returns the progress. A refused write renews nothing.
local function progress(index, offset)
  redis.call('ZADD', queue, now() + lease, name)
  return {index, offset, tonumber(stop_requested), steering_count}
end

local write = ARGV[4] .. ' ' .. redis.sha1hex(ARGV[6])
if index ~= expect then
  if last_write == write then
    return progress(index, tonumber(last_write_offset))
  end
  return redis.error_reply('INDEX ' .. stored_index)
end
if ARGV[6] == '' then
  return progress(index, offset)
end

local entries = cmsgpack.unpack(ARGV[6])
length = length_after(entries, tonumber(length))
if not length then
  return redis.error_reply('TEXT it does not continue')
end
if not about_its_people(turn, entries) then
  return redis.error_reply('FORBIDDEN the turn has no words of the person of a memory')
end
memory_prefix, memory_version = ARGV[7], ARGV[8]
offset = append_events(offset, apply(turn, entries))
index = index + #entries
redis.call('HSET', key, 'index', index, 'length', length, 'last_write', write,
  'last_write_offset', offset)
return progress(index, offset)
