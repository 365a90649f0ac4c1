-- ARGV: the position in the history up to which it was read, the bytes after which this reply ends.
-- Returns the next position, -1 when there are no more, and a list of {person, turn, the feedback as
-- JSON, the position of the reply}.
local size, found, authors, CHUNK = tonumber(ARGV[2]), {}, {}, 8
for _, person in ipairs(redis.call('SMEMBERS', conv .. ':u')) do
  if redis.call('EXISTS', conv .. ':l:' .. person) == 1 then
    authors[#authors + 1] = person
  end
end
if #authors == 0 then
  return {-1, found}
end
table.sort(authors)
local trimmed = tonumber(redis.call('HGET', conv, 'trimmed') or 0)
local read = math.max(tonumber(ARGV[1]) - trimmed, 0)
local entries = redis.call('LRANGE', conv .. ':h', read, read + CHUNK - 1)
while #entries > 0 and size > 0 do
  for i, entry in ipairs(entries) do
    local turn = rated_turn_of(entry)
    size = size - #entry
    for _, person in ipairs(turn and authors or {}) do
      local given = redis.call('HGET', conv .. ':l:' .. person, turn)
      if given then
        size = size - #given
        found[#found + 1] = {person, turn, given, trimmed + read + i - 1}
      end
    end
  end
  read = read + #entries
  entries = redis.call('LRANGE', conv .. ':h', read, read + CHUNK - 1)
end
return {#entries > 0 and trimmed + read or -1, found}
