-- ARGV: person. Returns their lines and waiting messages in one conversation, as JSON.
-- Bounded: a conversation keeps at most history_kept lines.
local mine, lines, pending = ARGV[1] .. ':', {}, {}
for _, line in ipairs(redis.call('LRANGE', conv .. ':h', 0, -1)) do
  if string.sub(line, 1, #mine) == mine then
    lines[#lines + 1] = string.sub(line, #mine + 1)
  end
end
for _, turn in ipairs(redis.call('LRANGE', conv .. ':q', 0, -1)) do
  local message, sender = unpack(
    redis.call('HMGET', conv .. ':t:' .. turn, 'message', 'sender'))
  if sender == ARGV[1] then
    pending[#pending + 1] = message
  end
end
return '{"lines":' .. json_list(lines) .. ',"pending":' .. json_list(pending) .. '}'
