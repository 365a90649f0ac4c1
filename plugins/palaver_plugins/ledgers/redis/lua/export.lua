-- ARGV: person, the first history entry, how many. Returns as JSON the person's entries among those,
-- the number of all entries and, with the first, the person's messages that wait or steer. With the
-- last come the turns that were stopped while they waited.
local owner, first, limit = ARGV[1] .. ':', tonumber(ARGV[2]), tonumber(ARGV[3])
local history, pending = {}, {}
local total = redis.call('LLEN', conv .. ':h')

local function add_history(entries)
  for _, entry in ipairs(entries) do
    if string.sub(entry, 1, #owner) == owner then
      history[#history + 1] = string.sub(entry, #owner + 1)
    end
  end
end

add_history(redis.call('LRANGE', conv .. ':h', first, first + limit - 1))
if first + limit >= total then
  for _, item in ipairs(redis.call('ZRANGE', conv .. ':w', 0, -1)) do
    add_history(cmsgpack.unpack(item)[3])
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
  '{"history":', json_list(history), ',"total":', total,
  ',"pending":', json_list(pending), '}'})
