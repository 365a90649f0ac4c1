-- Selects history entries by the rules of `palaver.history`. Entries are stored as '<owner>:<json>'; an
-- erased one is empty.
-- The position after an entry is its number, counted from 1, with those that were trimmed.
local CUT_MARK, MAX_CHUNK = ' […]', 8

-- Returns the first `length` bytes of the text of a JSON string, less what they have of a code point
-- or an escape sequence that is cut.
local function cut_string(text, length)
  local cut = string.sub(text, 1, length)
  local following = string.byte(text, length + 1) or 0
  if following >= 128 and following < 192 then
    cut = string.match(cut, '^(.*)[\192-\255]')
  end
  for at = math.max(1, #cut - 4), #cut do
    if string.byte(cut, at) == 92 then
      local before = at - 1
      while before > 0 and string.byte(cut, before) == 92 do
        before = before - 1
      end
      local is_unicode = string.byte(cut, at + 1) == 117
      if (at - 1 - before) % 2 == 0 and (at == #cut or (is_unicode and at + 5 > #cut)) then
        return string.sub(cut, 1, at - 1)
      end
    end
  end
  return cut
end

local function cut_entry(json, size)
  local _, start = string.find(json, '"text":"', 1, true)
  local stop = string.find(json, '","turn":"', start, true)
  local room = size - (#json - (stop - start - 1)) - #CUT_MARK
  local text = room > 0 and cut_string(string.sub(json, start + 1, stop - 1), room) or ''
  if text == '' then
    return nil
  end
  return string.sub(json, 1, start) .. text .. CUT_MARK .. string.sub(json, stop)
end

-- Returns the entries of turns that were stopped while they waited; they come after the others.
local function stopped_history()
  local found = {}
  for _, item in ipairs(redis.call('ZRANGE', conv .. ':w', 0, -1)) do
    for _, entry in ipairs(cmsgpack.unpack(item)[3]) do
      found[#found + 1] = entry
    end
  end
  return found
end

local function is_superseded(entry)
  return redis.call('HEXISTS', conv .. ':v', turn_of(entry) or '') == 1
end

-- Returns the newest entries, those of `stopped` turns included, as a JSON list, the position of those
-- before them or '', and whether the limit of bytes left something out. `last`: the position to begin
-- at, nil for the end. Reads in small chunks, as each entry may be large.
local function select_history(count, size, stopped, last, newest_complete)
  local key, trimmed = conv .. ':h', tonumber(redis.call('HGET', conv, 'trimmed') or 0)
  local stored = redis.call('LLEN', key)
  local remaining = math.min(stored + #stopped, last and last - trimmed or math.huge)
  local taken, left, position, is_cut = {}, size, nil, false
  local has_superseded = redis.call('EXISTS', conv .. ':v') == 1

  -- Takes the entry with that number. Returns false when it does not fit.
  local function take(entry, number)
    if entry == '' or (has_superseded and is_superseded(entry)) then
      return true
    end
    local json = string.sub(entry, string.find(entry, ':', 1, true) + 1)
    if #taken < count and (#json <= left or (#taken == 0 and newest_complete)) then
      taken[#taken + 1] = json
      left = left - #json
      return true
    end
    position, is_cut = trimmed + number, #taken < count
    if is_cut and not newest_complete and #json > size then
      taken[#taken + 1] = cut_entry(json, left)
    end
    return false
  end

  while remaining > stored and take(stopped[remaining - stored], remaining) do
    remaining = remaining - 1
  end
  local chunk = 4
  while remaining > 0 and not position do
    local first = math.max(remaining - math.min(chunk, math.max(count - #taken, 0) + 1), 0)
    local entries = redis.call('LRANGE', key, first, remaining - 1)
    while remaining > first and take(entries[remaining - first], remaining) do
      remaining = remaining - 1
    end
    chunk = MAX_CHUNK
  end
  local oldest_first = {}
  for i = #taken, 1, -1 do
    oldest_first[#oldest_first + 1] = taken[i]
  end
  return json_list(oldest_first), position and integer(position) or '', is_cut
end
