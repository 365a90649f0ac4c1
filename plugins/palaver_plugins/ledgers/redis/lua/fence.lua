-- Compares the fence before anything else. ARGV of a write on a turn begins: name turn fence …
local name, turn, fence = unpack(ARGV, 1, 3)
local running, newest_fence, last_offset, ends = unpack(
  redis.call('HMGET', conv, 'running', 'fence', 'offset', 'expires_at'))
local is_owner = running == turn and newest_fence == fence
expires_at = tonumber(ends)
