-- KEYS: state, queue, what is remembered about a person. ARGV: key, and the value or nothing.
if ARGV[2] then
  redis.call('HSET', conv, ARGV[1], ARGV[2])
else
  redis.call('HDEL', conv, ARGV[1])
end
if retention > 0 then
  redis.call('PEXPIRE', conv, retention)
else
  redis.call('PERSIST', conv)
end
