-- Which commands this user may not run. ARGV: a key, taken for a channel as well; the commands.
local lacking = {}
for i = 2, #ARGV do
  local words = {}
  for word in string.gmatch(ARGV[i], '%S+') do
    words[#words + 1] = word
  end
  for _ = 1, 4 do  -- wherever the command has its keys, Redis finds one there
    words[#words + 1] = ARGV[1]
  end
  if not redis.acl_check_cmd(unpack(words)) then
    lacking[#lacking + 1] = ARGV[i]
  end
end
return lacking
