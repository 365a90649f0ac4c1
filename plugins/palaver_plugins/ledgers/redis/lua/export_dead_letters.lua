-- ARGV: person, a turn. Returns the person's messages in its dead letter, as JSON.
local messages = redis.call('HGET', dead_letter_key(ARGV[2]), 'messages')
local theirs = messages and split_messages(messages, ARGV[1]) or {}
return json_list(json_of(theirs))
