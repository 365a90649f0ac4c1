-- ARGV: tenant, person. Returns the person's messages among the dead letters, as JSON.
local messages = {}

each_letter(function(_, letter)
  if letter.tenant == ARGV[1] then
    for _, pair in ipairs((split_letter(letter, ARGV[2]))) do
      messages[#messages + 1] = pair[2]
    end
  end
end)
return json_list(messages)
