-- Stores a turn that was given up; `dead_letter` is {reason, {{person, message}, …}, code points of
-- the reply to keep, mark of a cut, prefix of the people's indexes}.
local function delete_oldest(newest)
  local size = 0
  for number, turn in ipairs(redis.call('ZRANGE', dead_letters, 0, -1, 'REV')) do
    local key = dead_letter_key(turn)
    size = size + redis.call('HSTRLEN', key, 'messages') + redis.call('HSTRLEN', key, 'reply')
    if turn ~= newest and (number > MAX_DEAD_LETTERS or size > MAX_DEAD_LETTER_BYTES) then
      delete_dead_letter(turn)
    end
  end
end

local function store_dead_letter(turn, person, dead_letter, attempt, reply, skill, time)
  local stored_at = retention_now()
  local ends = stored_at + (retention > 0 and math.min(retention, MONTH) or MONTH)
  local kept = first_code_points(reply, dead_letter[3])
  if #kept < #reply then
    kept = kept .. dead_letter[4]
  end
  redis.call('HSET', dead_letter_key(turn), 'tenant', string.match(ARGV[1], '^[^/]+'),
    'person', person, 'messages', cmsgpack.pack(dead_letter[2]), 'reason', dead_letter[1],
    'attempt', attempt, 'reply', kept, 'skill', skill, 'at', time)
  redis.call('PEXPIREAT', dead_letter_key(turn), ends)
  index_dead_letter(dead_letter[5], turn, person, dead_letter[2], ends, stored_at + MONTH)
  redis.call('ZADD', dead_letters, stored_at, turn)
  redis.call('ZREMRANGEBYSCORE', dead_letters, '-inf', time - MONTH)
  delete_oldest(turn)
  redis.call('PEXPIREAT', dead_letters, stored_at + MONTH)
end
