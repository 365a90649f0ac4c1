-- Put events on the stream and tell those who watch; returns the last offset.
local STREAM_TTL = 7 * 86400

local function emit(offset, events)
  local told = {}
  for i, event in ipairs(events) do
    local place = string.format('%.0f', offset + i)
    redis.call('XADD', conv .. ':s', place .. '-0', 'e', event)
    told[i] = '{"offset":' .. place .. ',"event":' .. event .. '}'
  end
  if #events > 0 then
    offset = offset + #events
    redis.call('HSET', conv, 'offset', string.format('%.0f', offset))
    redis.call('EXPIRE', conv .. ':s', STREAM_TTL)
    redis.call('PUBLISH', conv .. ':e', json_list(told))
  end
  return offset
end

local function wake()
  redis.call('PUBLISH', queue, '')
end
