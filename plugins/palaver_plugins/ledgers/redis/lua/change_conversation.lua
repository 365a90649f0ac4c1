-- KEYS: state, queue, conversation, the person's list. ARGV: name, person, whether there is a title, the
-- title, whether an existing title stays, '1', '0' or '' for pinned, the same for archived. Returns time
-- of the last message, title, pinned, archived; nil when the person is no member.
local name, person = ARGV[1], ARGV[2]
if redis.call('SISMEMBER', conv .. ':u', person) == 0 then
  return nil
end
if ARGV[3] == '1' and not (ARGV[5] == '1' and redis.call('HEXISTS', conv, 'title') == 1) then
  if ARGV[4] == '' then
    redis.call('HDEL', conv, 'title')
  else
    redis.call('HSET', conv, 'title', ARGV[4])
  end
end
for i, field in ipairs({'pinned:' .. person, 'archived:' .. person}) do
  if ARGV[5 + i] == '1' then
    redis.call('HSET', conv, field, '1')
  elseif ARGV[5 + i] == '0' then
    redis.call('HDEL', conv, field)
  end
end
local values = redis.call('HMGET', conv, 'title', 'pinned:' .. person, 'archived:' .. person)
-- Reads the score with a command that the ledger's users are permitted already.
local time = redis.call('ZADD', KEYS[4], 'XX', 'INCR', 0, name)
return {time or '0', values[1] or '', values[2] or '0', values[3] or '0'}
