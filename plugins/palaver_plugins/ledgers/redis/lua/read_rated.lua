-- ARGV: a turn, the position of its reply in the history, the bytes of earlier history to return.
-- Returns the turn's entries, the newest of the history that led to it, and whether older ones are left
-- out, as JSON; nil when the reply is not there any more.
local turn, left = ARGV[1], tonumber(ARGV[3])
local trimmed, CHUNK = tonumber(redis.call('HGET', conv, 'trimmed') or 0), 8
local last = tonumber(ARGV[2]) - trimmed
local reply = last >= 0 and redis.call('LINDEX', conv .. ':h', last)
if not reply or rated_turn_of(reply) ~= turn then
  return nil
end

-- `path`: the turn whose entries are taken now, the alternative that it came after, or is, if it is
-- superseded, and the turn before it, if it is an alternative.
local path, entries, history, is_cut, is_end = nil, {}, {}, false, false
local function go_to(next_turn)
  path = {
    turn = next_turn,
    alternative = redis.call('HGET', superseded_key, next_turn),
    parent = parent_of(next_turn),
  }
end

local function is_before(other)
  if path.parent then
    return other == path.parent
  end
  return redis.call('HGET', superseded_key, other) == path.alternative
end

-- Takes an entry if it is on the path.
local function take(entry)
  local other = entry ~= '' and turn_of(entry)
  if not other then
    return
  elseif other ~= path.turn then
    is_end = path.parent == '-'
    if is_end or not is_before(other) then
      return
    end
    go_to(other)
  end
  local json = string.sub(entry, string.find(entry, ':', 1, true) + 1)
  if other == turn then
    table.insert(entries, 1, json)
    return
  end
  left = left - #json
  if left < 0 then
    is_cut, is_end = true, true
  else
    table.insert(history, 1, json)
  end
end

go_to(turn)
while last >= 0 and not is_end do
  local first = math.max(last - CHUNK + 1, 0)
  local chunk = redis.call('LRANGE', conv .. ':h', first, last)
  for i = #chunk, 1, -1 do
    take(chunk[i])
    if is_end then
      break
    end
  end
  last = first - 1
end
return table.concat({'{"entries":', json_list(entries), ',"history":', json_list(history),
  ',"is_cut":', is_cut and 'true' or 'false', '}'})
