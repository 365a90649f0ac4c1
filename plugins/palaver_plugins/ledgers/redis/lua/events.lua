-- Appends events to the stream and publishes them; returns the last offset.
local function append_events(offset, events)
  local stored = {}
  for i, event in ipairs(events) do
    local position = integer(offset + i)
    redis.call('XADD', conv .. ':s', position .. '-0', 'e', event)
    stored[i] = '{"offset":' .. position .. ',"event":' .. event .. '}'
  end
  if #events > 0 then
    offset = offset + #events
    redis.call('HSET', conv, 'offset', integer(offset))
    redis.call('PUBLISH', conv .. ':e', json_list(stored))
  end
  return offset
end

-- Returns the event of an accepted message; `suffix` is the part of its JSON after the turn.
local function received(turn, suffix, moved, ahead, at)
  return table.concat({'{"type":"message","turn":"', turn, suffix, moved and 'true' or 'false',
    ',"ahead":', ahead, ',"at":', json_time(at), '}'})
end

local function wake()
  redis.call('PUBLISH', queue, '')
end
