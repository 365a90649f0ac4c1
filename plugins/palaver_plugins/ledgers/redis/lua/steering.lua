-- ARGV: name turn fence. Returns the messages that steer the turn, as JSON.
if not owned then
  return redis.error_reply('FENCED the claim is over')
end
return json_list(messages_of(steering_of(turn)))
