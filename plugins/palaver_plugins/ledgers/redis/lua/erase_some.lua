-- ARGV: person, the position to begin at, bytes to read. A step before erase.lua. Returns the number of
-- removed messages, the position to go on at, whether that is the end, and the turns of kept replies.
expires_at = tonumber(redis.call('HGET', conv, 'expires_at') or nil)
local trimmed = tonumber(redis.call('HGET', conv, 'trimmed') or 0)
local messages, kept_turns, read, is_end = erase_some_history(
  ARGV[1] .. ':', math.max(tonumber(ARGV[2]) - trimmed, 0), tonumber(ARGV[3]))
return {messages, trimmed + read, is_end and 1 or 0, kept_turns}
