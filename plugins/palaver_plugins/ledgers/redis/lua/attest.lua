-- A server process that has not been seen before may have lost what the last one acknowledged
-- (a crash, a restored file, a failover): it gives all streams of the partition a new life.
-- KEYS: state. ARGV: the server's run id, a fresh random life, for how long things are kept (ms).
if redis.call('HGET', KEYS[1], 'run') ~= ARGV[1] then
  redis.call('HSET', KEYS[1], 'run', ARGV[1], 'life', ARGV[2])
  redis.call('HDEL', KEYS[1], 'owners')  -- nobody is back yet, and that says nothing
end
redis.call('HSET', KEYS[1], 'retention', ARGV[3])
return redis.call('HGET', KEYS[1], 'life')
