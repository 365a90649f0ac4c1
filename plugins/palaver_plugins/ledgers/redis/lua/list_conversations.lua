-- KEYS: state, queue, the person's list. ARGV: the prefix of conversations, person, channel, whether
-- archived ones are wanted, whether only pinned ones, time and name of the position before which they are
-- wanted, how many. Returns {name, time, title, pinned, archived} of each, and the time and name up to
-- which the list was read, or {} at its end. Bounded: it reads at most MAX_ROWS.
local prefix, person, channel, archived, pinned = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local last_time, last_name, limit = ARGV[6], ARGV[7], tonumber(ARGV[8])
local MAX_ROWS, CHUNK = 1000, 100
local found, read, skipped = {}, 0, 0

local function visit(name, time)
  local values = redis.call('HMGET', prefix .. name, 'generation', 'title',
    'pinned:' .. person, 'archived:' .. person)
  local is_pinned, is_archived = values[3] or '0', values[4] or '0'
  if values[1] and string.match(name, '^[^/]*/([^/]*)') == channel
    and is_archived == archived and (is_pinned == '1' or pinned == '0') then
    found[#found + 1] = {name, time, values[2] or '', is_pinned, is_archived}
  end
end

while #found < limit and read < MAX_ROWS do
  local rows = redis.call('ZRANGE', KEYS[3], last_time, '-inf', 'BYSCORE', 'REV',
    'LIMIT', skipped, CHUNK, 'WITHSCORES')
  if #rows == 0 then
    return {found, {}}
  end
  for i = 1, #rows, 2 do
    local name, time = rows[i], rows[i + 1]
    skipped = time == last_time and skipped + 1 or 1
    if last_name == '' or time ~= last_time or name < last_name then
      last_time, last_name = time, name
      read = read + 1
      visit(name, time)
      if #found == limit then
        break
      end
    end
  end
end
return {found, {last_time, last_name}}
