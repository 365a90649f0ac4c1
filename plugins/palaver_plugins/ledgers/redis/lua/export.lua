-- ARGV: person, the position in the history up to which it was read, the bytes after which this reply
-- ends. Returns the person's next history entries as JSON, and the next position, -1 when there are no
-- more. The turns that were stopped while they waited come last.
local owner, size = ARGV[1] .. ':', tonumber(ARGV[3])
local key, history, CHUNK, MAX_READ = conv .. ':h', {}, 8, 1000
local trimmed = tonumber(redis.call('HGET', conv, 'trimmed') or 0)
local read = math.max(tonumber(ARGV[2]) - trimmed, 0)
local total = redis.call('LLEN', key)

local function add(entries)
  for _, entry in ipairs(entries) do
    size = size - #entry
    if string.sub(entry, 1, #owner) == owner then
      history[#history + 1] = string.sub(entry, #owner + 1)
    end
  end
end

local last = math.min(total, read + MAX_READ)
while read < last and size > 0 do
  local entries = redis.call('LRANGE', key, read, math.min(read + CHUNK, last) - 1)
  add(entries)
  read = read + #entries
end
if read >= total then
  add(stopped_history())
  return {json_list(history), -1}
end
return {json_list(history), trimmed + read}
