-- Entries arrive as {kind, json, ...}: 't' text (position, code points, text), 'r' reset
-- (position), 's' step (number), 'k' routed (skill), 'e' any other event.

-- Where the entries leave the reply's length, or nil when a text does not continue it.
local function length_after(entries, length)
  for _, entry in ipairs(entries) do
    local kind = entry[1]
    if kind == 't' then
      if entry[3] ~= length then return nil end
      length = length + entry[4]
    elseif kind == 'r' then
      if entry[3] > length then return nil end
      length = entry[3]
    end
  end
  return length
end

-- The first `points` code points of `text`. Counts by chunk: a reply may be long.
local function head_of(text, points)
  local at, chunk = 1, 4096
  while at <= #text do
    local _, found = string.gsub(string.sub(text, at, at + chunk - 1), '[^\128-\191]', '')
    if found > points then
      if chunk == 1 then break end
      chunk = math.max(1, math.floor(chunk / 8))
    else
      points = points - found
      at = at + chunk
    end
  end
  return string.sub(text, 1, at - 1)
end

local function write_reply(key, parts)
  if #parts > 0 then
    local text = table.concat(parts)
    if redis.call('APPEND', key, text) == #text then
      lasts(key)
    end
  end
end

-- Take checked entries in; returns those that are events.
local function apply(turn, entries)
  local reply, events, parts = conv .. ':r:' .. turn, {}, {}
  for _, entry in ipairs(entries) do
    local kind = entry[1]
    if kind == 's' then
      redis.call('HSET', conv .. ':j:' .. turn, entry[3], entry[2])
      lasts(conv .. ':j:' .. turn)
    else
      events[#events + 1] = entry[2]
    end
    if kind == 't' then
      parts[#parts + 1] = entry[5]
    elseif kind == 'r' then
      write_reply(reply, parts)
      parts = {}
      redis.call('SET', reply, head_of(redis.call('GET', reply) or '', entry[3]), 'KEEPTTL')
    elseif kind == 'k' then
      redis.call('HSET', conv .. ':t:' .. turn, 'skill', entry[3])
    end
  end
  write_reply(reply, parts)
  return events
end
