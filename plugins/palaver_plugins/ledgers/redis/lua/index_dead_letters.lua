-- ARGV: prefix of the people's indexes, up to the tenant, and the first dead letter to index. Indexes
-- some dead letters of earlier versions. Returns the next one, or -1 when all are indexed.
local first, COUNT = tonumber(ARGV[2]), 20
if redis.call('HGET', state, 'dead_letters_indexed') then
  return -1
end
local turns = redis.call('ZRANGE', dead_letters, first, first + COUNT - 1)
for _, turn in ipairs(turns) do
  local tenant, person, messages, time = unpack(redis.call(
    'HMGET', dead_letter_key(turn), 'tenant', 'person', 'messages', 'at'))
  if tenant then
    index_dead_letter(
      ARGV[1] .. tenant .. '/', turn, person, cmsgpack.unpack(messages), tonumber(time) + MONTH,
      now() + MONTH)
  end
end
if #turns < COUNT then
  redis.call('HSET', state, 'dead_letters_indexed', 1)
  return -1
end
return first + COUNT
