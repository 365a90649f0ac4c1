-- Empties the person's entries among those of the history from the index `read` on, about `size` bytes
-- of them. The empty ones stay, so that the positions of other erasures and exports stay right.
-- Returns the number of removed messages, the turns of the kept replies, the index of the first entry
-- that was not read, and whether that is the end.
local function erase_some_history(owner, read, size)
  local key, messages, kept_turns, CHUNK = conv .. ':h', 0, {}, 8
  local entries = redis.call('LRANGE', key, read, read + CHUNK - 1)
  while #entries > 0 and size > 0 do
    for i, entry in ipairs(entries) do
      local is_reply = string.match(entry, '^[^:]*:{"role":"(%w+)"') == 'assistant'
      size = size - #entry
      if string.sub(entry, 1, #owner) == owner then
        redis.call('LSET', key, read + i - 1, '')
        messages = messages + (is_reply and 0 or 1)
      elseif is_reply then
        kept_turns[#kept_turns + 1] = string.match(entry, '","turn":"(%w+)","at":')
      end
    end
    read = read + #entries
    entries = redis.call('LRANGE', key, read, read + CHUNK - 1)
  end
  return messages, kept_turns, read, #entries == 0
end
