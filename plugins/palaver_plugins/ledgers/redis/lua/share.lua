-- KEYS: state, queue, conversation, the key of the share. ARGV: person, the share's id, its time, the
-- content, the epoch in which it was read, how many shares there may be. Returns whether the person is a
-- member, the present epoch, and the ids of the shares before; the share is stored when these allow it.
local person, share, at, content, expected, limit = unpack(ARGV, 1, 6)
expires_at = tonumber(redis.call('HGET', conv, 'expires_at') or nil)
local is_member = redis.call('SISMEMBER', conv .. ':u', person)
local current = epoch_of(redis.call('HGET', conv, 'generation'))
local shares = redis.call('LRANGE', conv .. ':x', 0, -1)
local is_known = redis.call('EXISTS', KEYS[4]) == 1
if is_member == 1 and current == expected and #shares < tonumber(limit) and not is_known then
  redis.call('HSET', KEYS[4], 'at', at, 'content', content)
  set_expiry(KEYS[4])
  redis.call('RPUSH', conv .. ':x', share)
  set_expiry(conv .. ':x')
end
return {is_member, current, shares}
