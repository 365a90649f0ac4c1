-- Put events on the stream and tell those who watch; returns the last offset.
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
    redis.call('PUBLISH', conv .. ':e', json_list(told))
  end
  return offset
end

-- The event of an accepted message, of which `rest` is what follows the turn.
local function received(turn, rest, moved, ahead)
  return table.concat({'{"type":"message","turn":"', turn, rest, moved and 'true' or 'false',
    ',"ahead":', ahead, '}'})
end

local function wake()
  redis.call('PUBLISH', queue, '')
end
