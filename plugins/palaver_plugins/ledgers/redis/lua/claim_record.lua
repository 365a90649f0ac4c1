-- KEYS: state, queue, the records that are due. ARGV: the names, the prefix of the records, the prefix of
-- the conversations, the lease in ms. Returns name, value, version and due_at of the record that has been due
-- for the longest time, or nothing.
local due, names = KEYS[3], ARGV[1]
for _ = 1, 100 do
  local found = redis.call('ZRANGE', due, '-inf', now(), 'BYSCORE', 'LIMIT', 0, 1)[1]
  if not found then
    return nil
  end
  local of = string.match(found, '^outbox:(.*)$')
  local record = of and ARGV[3] .. of .. ':b' or ARGV[2] .. found
  if redis.call('EXISTS', record) == 1 then
    local at = now() + tonumber(ARGV[4])
    local version = redis.call('HINCRBY', record, 'version', 1)
    redis.call('HDEL', record, 'woken')
    set_due(due, record, found, at)
    return {found, redis.call('HGET', record, 'value'), version, integer(at)}
  end
  redis.call('ZREM', due, found)
  redis.call('ZREM', names, found)
end
return nil
