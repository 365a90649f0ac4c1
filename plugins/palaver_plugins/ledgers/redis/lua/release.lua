-- ARGV: name, turn, fence
local key = conv .. ':t:' .. turn
if not is_owner then
  if redis.call('HGET', key, 'released') == fence then
    return 0
  end
  return redis.error_reply('FENCED the claim is over')
end
redis.call('HSET', key, 'released', fence)
redis.call('HINCRBY', key, 'attempt', -1)
end_claim()
count('running', -1)
count('queued', 1)
redis.call('ZADD', queue, now(), name)
wake()
return 1
