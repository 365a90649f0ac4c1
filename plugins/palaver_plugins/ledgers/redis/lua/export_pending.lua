-- ARGV: person. Returns the person's messages that wait or steer, as JSON.
local pending = {}
for _, turn in ipairs(redis.call('LRANGE', conv .. ':q', 0, -1)) do
  local messages, person = unpack(redis.call('HMGET', conv .. ':t:' .. turn, 'messages', 'person'))
  if person == ARGV[1] then
    pending[#pending + 1] = messages
  end
  for _, item in ipairs(steering_of(turn)) do
    if item[2] == ARGV[1] then
      pending[#pending + 1] = item[4]
    end
  end
end
return json_list(pending)
