-- KEYS: state, queue, the record. ARGV: the names, those that are due, the name, the expected version (0: a
-- new record), the value, in how many ms it is due (-1: never), the next version. Returns that and when it is
-- due, in ms (-1: never); nothing when the version is another one.
local names, due, name, value = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local expected, wait, next_version = tonumber(ARGV[4]), tonumber(ARGV[6]), tonumber(ARGV[7])
local version, woken = unpack(redis.call('HMGET', conv, 'version', 'woken'))
local is_outbox = string.sub(name, 1, 7) == 'outbox:'
if tonumber(version or 0) ~= expected or (is_outbox and expected == 0) then
  return nil
end
redis.call('HSET', conv, 'value', value, 'version', integer(next_version))
local at = wait >= 0 and now() + wait or nil
if not at and woken then
  at = now()
  redis.call('HDEL', conv, 'woken')
end
set_due(due, conv, name, at)
redis.call('ZADD', names, 0, name)
if not is_outbox then
  keep(conv)
end
keep_lists(names, due)
return {next_version, at and integer(at) or -1}
