-- KEYS: state, queue, what is remembered about a person. ARGV: key. Returns the value.
if retention > 0 then
  redis.call('PEXPIRE', conv, retention)
else
  redis.call('PERSIST', conv)
end
return redis.call('HGET', conv, ARGV[1])
