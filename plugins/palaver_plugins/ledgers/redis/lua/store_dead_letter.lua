-- Stores a turn that was given up; `dead_letter` is {reason, {{person, message}, …}}.
local function store_dead_letter(turn, person, dead_letter, attempt, reply, skill, time)
  local ends = time + (retention > 0 and math.min(retention, MONTH) or MONTH)
  redis.call('HSET', dead_letter_key(turn), 'tenant', string.match(ARGV[1], '^[^/]+'),
    'person', person, 'messages', cmsgpack.pack(dead_letter[2]), 'reason', dead_letter[1],
    'attempt', attempt, 'reply', reply, 'skill', skill, 'at', time)
  redis.call('PEXPIREAT', dead_letter_key(turn), ends)
  redis.call('ZADD', dead_letters, time, turn)
  redis.call('ZREMRANGEBYSCORE', dead_letters, '-inf', time - MONTH)
  while redis.call('ZCARD', dead_letters) > MAX_DEAD_LETTERS do
    delete_dead_letter(redis.call('ZRANGE', dead_letters, 0, 0)[1])
  end
  redis.call('PEXPIRE', dead_letters, MONTH)
end
