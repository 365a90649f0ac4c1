-- ARGV: tenant, person. Removes the person's letters, and their messages from those of others.
-- Returns how many held some.
local touched = 0

each_letter(function(turn, letter)
  if letter.tenant ~= ARGV[1] then
    return
  end
  local theirs, others = split_letter(letter, ARGV[2])
  if #theirs > 0 then
    touched = touched + 1
  end
  if letter.person == ARGV[2] then
    forget_letter(turn)
  elseif #theirs > 0 then
    redis.call('HSET', letter_key(turn), 'messages', cmsgpack.pack(others))
  end
end)
return touched
