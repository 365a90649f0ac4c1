-- ARGV: after, limit. Returns a Page as JSON.
local stream = conv .. ':s'
local generation, last = unpack(redis.call('HMGET', conv, 'generation', 'offset'))
last = tonumber(last or 0)

local function offset_of(entry)
  return string.sub(entry[1], 1, -3)
end

local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
local events, limit = {}, tonumber(ARGV[2])
if limit > 0 then
  for i, entry in ipairs(redis.call('XRANGE', stream, '(' .. ARGV[1] .. '-0', '+', 'COUNT', limit)) do
    events[i] = '{"offset":' .. offset_of(entry) .. ',"event":' .. entry[2][2] .. '}'
  end
end
return table.concat({
  '{"epoch":"', epoch_of(generation), '","first":', oldest and offset_of(oldest) or integer(last + 1),
  ',"last":', integer(last), ',"events":', json_list(events), '}'})
