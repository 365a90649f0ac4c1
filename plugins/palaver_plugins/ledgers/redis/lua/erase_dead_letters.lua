-- ARGV: person, a turn. The last but two of KEYS is the person's index. Deletes the dead letter when it
-- is the person's, else their messages in it. Returns whether it had any.
local person, turn = ARGV[1], ARGV[2]
local key = dead_letter_key(turn)
local owner, messages = unpack(redis.call('HMGET', key, 'person', 'messages'))
redis.call('ZREM', KEYS[#KEYS - 2], turn)
if not owner then
  return 0
end
local theirs, others = split_messages(messages, person)
if owner == person then
  delete_dead_letter(turn)
elseif #theirs > 0 then
  redis.call('HSET', key, 'messages', cmsgpack.pack(others))
end
return #theirs > 0 and 1 or 0
