-- KEYS: state, queue, the record. ARGV: the names, those that are due, the name, the expected version. Returns
-- whether it was deleted.
if redis.call('HGET', conv, 'version') ~= ARGV[4] then
  return 0
end
redis.call('UNLINK', conv)
redis.call('ZREM', ARGV[1], ARGV[3])
redis.call('ZREM', ARGV[2], ARGV[3])
return 1
