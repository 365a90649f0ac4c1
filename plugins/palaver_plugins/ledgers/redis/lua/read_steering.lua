-- ARGV: name, turn, fence. Returns the turn's steering messages as JSON.
if not is_owner then
  return redis.error_reply('FENCED the claim is over')
end
return json_list(messages_of(steering_of(turn)))
