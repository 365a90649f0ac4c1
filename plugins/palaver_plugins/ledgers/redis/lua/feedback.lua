-- Feedback. ':l:<person>' of a conversation maps turns to the feedback of a member, as JSON.

-- Deletes all feedback on a turn whose reply is deleted.
local function forget_feedback(turn)
  for _, person in ipairs(redis.call('SMEMBERS', conv .. ':u')) do
    redis.call('HDEL', conv .. ':l:' .. person, turn)
  end
end

-- Returns the turn of a history entry that is a reply, unless it was stopped before its first word.
local function rated_turn_of(entry)
  if string.match(entry, '^[^:]*:{"role":"(%w+)"') ~= 'assistant' then
    return nil
  end
  local empty = '^[^:]*:{"role":"assistant","text":"","turn":"%w+","at":[%d.]+,"skill":"[^"]*",'
  return not string.match(entry, empty .. '"outcome":"stopped"') and turn_of(entry) or nil
end
