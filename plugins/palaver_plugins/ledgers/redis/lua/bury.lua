-- Keep a turn that was given up; `dead` is {problem, {{person, message}, …}}.
local function bury(turn, person, dead, attempt, reply, skill, time)
  local ends = time + (retention > 0 and math.min(retention, MONTH) or MONTH)
  redis.call('HSET', letter_key(turn), 'tenant', string.match(ARGV[1], '^[^/]+'), 'person', person,
    'messages', cmsgpack.pack(dead[2]), 'problem', dead[1], 'attempt', attempt, 'reply', reply,
    'skill', skill, 'at', time)
  redis.call('PEXPIREAT', letter_key(turn), ends)
  redis.call('ZADD', letters, time, turn)
  redis.call('ZREMRANGEBYSCORE', letters, '-inf', time - MONTH)
  while redis.call('ZCARD', letters) > LETTERS do
    forget_letter(redis.call('ZRANGE', letters, 0, 0)[1])
  end
  redis.call('PEXPIRE', letters, MONTH)
end
