-- ARGV: after, limit, bytes after which the page ends. Returns a Page as JSON.
local stream = conv .. ':s'
local generation, last = unpack(redis.call('HMGET', conv, 'generation', 'offset'))
last = tonumber(last or 0)

local function offset_of(entry)
  return string.sub(entry[1], 1, -3)
end

-- Reads in small chunks, as each event may be large.
local function read_events(after, limit, size)
  local events, chunk = {}, 8
  while limit > 0 do
    local entries = redis.call('XRANGE', stream, '(' .. after .. '-0', '+', 'COUNT', math.min(limit, chunk))
    for _, entry in ipairs(entries) do
      size = size - #entry[2][2]
      if size < 0 and #events > 0 then
        return events
      end
      after = offset_of(entry)
      events[#events + 1] = '{"offset":' .. after .. ',"event":' .. entry[2][2] .. '}'
    end
    if #entries < chunk then
      break
    end
    limit, chunk = limit - #entries, math.min(4 * chunk, 128)
  end
  return events
end

local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
local events = read_events(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
return table.concat({
  '{"epoch":"', epoch_of(generation), '","first":', oldest and offset_of(oldest) or integer(last + 1),
  ',"last":', integer(last), ',"events":', json_list(events), '}'})
