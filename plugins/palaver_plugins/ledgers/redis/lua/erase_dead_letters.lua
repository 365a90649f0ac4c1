-- ARGV: tenant, person. Deletes the person's dead letters, and their messages from those of others.
-- Returns how many dead letters changed.
local changed = 0

each_dead_letter(function(turn, letter)
  if letter.tenant ~= ARGV[1] then
    return
  end
  local theirs, others = split_messages(letter, ARGV[2])
  if #theirs > 0 then
    changed = changed + 1
  end
  if letter.person == ARGV[2] then
    delete_dead_letter(turn)
  elseif #theirs > 0 then
    redis.call('HSET', dead_letter_key(turn), 'messages', cmsgpack.pack(others))
  end
end)
return changed
