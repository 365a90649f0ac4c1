-- Records of channels: hashes with value, version, due_at (ms) and woken. `names` is the sorted set of a
-- channel's records, `due` that of those that are due, by the time. An outbox has the expiry of its
-- conversation; the sets lose its name when it is looked for.
local function set_due(due, record, name, at)
  if at then
    redis.call('HSET', record, 'due_at', integer(at))
    redis.call('ZADD', due, integer(at), name)
  else
    redis.call('HDEL', record, 'due_at')
    redis.call('ZREM', due, name)
  end
end

-- Records live as long as the longest conversation.
local function keep(key)
  if retention > 0 then
    redis.call('PEXPIREAT', key, integer(retention_now() + retention))
  end
end

local function keep_lists(names, due)
  keep(names)
  keep(due)
end

-- Makes the outbox of the conversation due, unless a process works on it. A new one has `first_version`.
local function wake_outbox(names, due, name, first_version)
  local record = conv .. ':b'
  local version, due_at = unpack(redis.call('HMGET', record, 'version', 'due_at'))
  if due_at then
    redis.call('HSET', record, 'woken', 1)
  else
    redis.call('HINCRBY', record, 'version', version and 1 or integer(first_version))
    redis.call('HSETNX', record, 'value', '')
    redis.call('ZADD', names, 0, name)
    set_due(due, record, name, now())
    set_expiry(record)
  end
  keep_lists(names, due)
end
