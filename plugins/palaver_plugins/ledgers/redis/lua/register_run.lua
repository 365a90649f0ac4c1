-- A Redis process with an unknown run id may have lost writes that an earlier one acknowledged (a
-- crash, a restored file, a failover): all streams of the partition get a new epoch.
-- KEYS: state. ARGV: the run id, a fresh random epoch, the retention (ms).
if redis.call('HGET', KEYS[1], 'run_id') ~= ARGV[1] then
  redis.call('HSET', KEYS[1], 'run_id', ARGV[1], 'epoch', ARGV[2])
  redis.call('HDEL', KEYS[1], 'owners')  -- all connections ended: their absence means nothing
end
redis.call('HSET', KEYS[1], 'retention', ARGV[3])
return redis.call('HGET', KEYS[1], 'epoch')
