-- KEYS: state, queue, conversation, the key of the share. ARGV: the share's id. Returns whether the
-- conversation had it.
local removed = redis.call('LREM', conv .. ':x', 1, ARGV[1])
if removed == 1 then
  redis.call('UNLINK', KEYS[4])
end
return removed
