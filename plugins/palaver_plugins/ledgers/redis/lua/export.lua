-- ARGV: person, the first line, how many lines. Returns the person's lines among those, the number
-- of all lines and, with the first, the person's messages that wait or steer: as JSON.
local mine, first, limit = ARGV[1] .. ':', tonumber(ARGV[2]), tonumber(ARGV[3])
local lines, pending = {}, {}
for _, line in ipairs(redis.call('LRANGE', conv .. ':h', first, first + limit - 1)) do
  if string.sub(line, 1, #mine) == mine then
    lines[#lines + 1] = string.sub(line, #mine + 1)
  end
end
for _, turn in ipairs(first == 0 and redis.call('LRANGE', conv .. ':q', 0, -1) or {}) do
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
return table.concat({
  '{"lines":', json_list(lines), ',"all":', redis.call('LLEN', conv .. ':h'),
  ',"pending":', json_list(pending), '}'})
