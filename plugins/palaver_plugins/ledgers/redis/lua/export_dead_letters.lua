-- ARGV: tenant, person. Returns the person's messages in dead letters, as JSON.
local messages = {}

each_dead_letter(function(_, letter)
  if letter.tenant == ARGV[1] then
    for _, pair in ipairs((split_messages(letter, ARGV[2]))) do
      messages[#messages + 1] = pair[2]
    end
  end
end)
return json_list(messages)
