-- Returns the commands that this user may not run. ARGV: a key, also used as a channel; the commands.
local denied = {}
for i = 2, #ARGV do
  local words = {}
  for word in string.gmatch(ARGV[i], '%S+') do
    words[#words + 1] = word
  end
  for _ = 1, 4 do  -- so that there is a key at each position where a command may have one
    words[#words + 1] = ARGV[1]
  end
  if not redis.acl_check_cmd(unpack(words)) then
    denied[#denied + 1] = ARGV[i]
  end
end
return denied
