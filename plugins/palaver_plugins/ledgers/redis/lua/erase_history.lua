-- Forgets the turn whose reply, its last entry, was erased from that index, unless it has entries of
-- other people.
local function forget_erased(turn, index)
  local before, entry = index, ''
  while before > 0 and entry == '' do
    before = before - 1
    entry = redis.call('LINDEX', conv .. ':h', before)
  end
  if entry == '' or turn_of(entry) ~= turn then
    forget(turn, index)
  end
end

-- Empties the person's entries among those of the history from the index `read` on, about `size` bytes
-- of them. The empty ones stay, so that the positions of other erasures and exports stay right.
-- Returns the number of removed messages, the turns of the kept replies, the index of the first entry
-- that was not read, and whether that is the end.
local function erase_some_history(owner, read, size)
  local key, messages, kept_turns, CHUNK = conv .. ':h', 0, {}, 8
  local entries = redis.call('LRANGE', key, read, read + CHUNK - 1)
  local has_alternatives = redis.call('EXISTS', alternatives_key) == 1
  while #entries > 0 and size > 0 do
    for i, entry in ipairs(entries) do
      local is_reply = string.match(entry, '^[^:]*:{"role":"(%w+)"') == 'assistant'
      size = size - #entry
      if string.sub(entry, 1, #owner) == owner then
        redis.call('LSET', key, read + i - 1, '')
        messages = messages + (is_reply and 0 or 1)
        if is_reply then
          forget_feedback(turn_of(entry))
        end
        if is_reply and has_alternatives then
          forget_erased(turn_of(entry), read + i - 1)
        end
      elseif is_reply then
        kept_turns[#kept_turns + 1] = turn_of(entry)
      end
    end
    read = read + #entries
    entries = redis.call('LRANGE', key, read, read + CHUNK - 1)
  end
  return messages, kept_turns, read, #entries == 0
end
