-- Entries arrive as {kind, json, ...}: 't' text (position, code points, text), 'r' reset
-- (position), 's' step (number), 'k' routed (skill), 'm' memory (see there), 'e' any other event.

-- Returns the reply's length after the entries, or nil when a text does not continue it.
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

-- Returns the first `points` code points of `text`. Counts by chunks, as a reply may be long.
local function first_code_points(text, points)
  local start, chunk = 1, 4096
  while start <= #text do
    local _, found = string.gsub(string.sub(text, start, start + chunk - 1), '[^\128-\191]', '')
    if found > points then
      if chunk == 1 then break end
      chunk = math.max(1, math.floor(chunk / 8))
    else
      points = points - found
      start = start + chunk
    end
  end
  return string.sub(text, 1, start - 1)
end

local function append_reply(key, parts)
  if #parts > 0 then
    local text = table.concat(parts)
    if redis.call('APPEND', key, text) == #text then
      set_expiry(key)
    end
  end
end

-- Stores reply, journal and skill of checked entries; returns those that are events.
local function apply(turn, entries)
  local reply, events, parts = conv .. ':r:' .. turn, {}, {}
  for _, entry in ipairs(entries) do
    local kind = entry[1]
    if kind == 'm' then
      write_memory(entry)
    elseif kind == 's' then
      redis.call('HSET', conv .. ':j:' .. turn, entry[3], entry[2])
      set_expiry(conv .. ':j:' .. turn)
    else
      events[#events + 1] = entry[2]
    end
    if kind == 't' then
      parts[#parts + 1] = entry[5]
    elseif kind == 'r' then
      append_reply(reply, parts)
      parts = {}
      local cut = first_code_points(redis.call('GET', reply) or '', entry[3])
      redis.call('SET', reply, cut, 'KEEPTTL')
    elseif kind == 'k' then
      redis.call('HSET', conv .. ':t:' .. turn, 'skill', entry[3])
    end
  end
  append_reply(reply, parts)
  return events
end
