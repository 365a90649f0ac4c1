-- All keys of a conversation expire at the same moment, `till` (nil: never), so that there is
-- never a part of one: were its fences gone before its turns, a claim of old would hold again.
-- That moment is moved by what happens to the conversation, but not more often than once an hour.
-- A key that is made later gets it by `lasts`. What lasts for a shorter time ends by then, too.
local till
local HOUR, DAY, WEEK = 3600000, 86400000, 7 * 86400000

local function lasts(key)
  if till then
    redis.call('PEXPIREAT', key, till)
  end
end

local function lasts_at_most(key, ms)
  local ends = now() + ms
  redis.call('PEXPIREAT', key, till and math.min(till, ends) or ends)
end

-- The conversations of a person, each with the moment of its end. It ends with the last of them.
local function index(people, person, name)
  local key = people .. person
  redis.call('ZADD', key, till or '+inf', name)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now())
  local ends = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
  if ends == 'inf' then
    redis.call('PERSIST', key)
  elseif ends then
    redis.call('PEXPIREAT', key, ends)
  end
end

local function renew(key)
  if till then
    redis.call('PEXPIREAT', key, till)
  else
    redis.call('PERSIST', key)
  end
end

-- The conversation lives: it is kept for as long as the retention says from now on.
local function touch(people, name)
  local wanted = retention > 0 and now() + retention or nil
  if till == wanted or (till and wanted and math.abs(wanted - till) < HOUR) then
    return
  end
  till = wanted
  if till then
    redis.call('HSET', conv, 'until', till)
  else
    redis.call('HDEL', conv, 'until')
  end
  for _, suffix in ipairs({'', ':q', ':h', ':u'}) do
    renew(conv .. suffix)
  end
  for _, turn in ipairs(redis.call('LRANGE', conv .. ':q', 0, -1)) do
    for _, noun in ipairs({':t:', ':r:', ':j:', ':g:'}) do
      renew(conv .. noun .. turn)
    end
  end
  for _, person in ipairs(redis.call('SMEMBERS', conv .. ':u')) do
    index(people, person, name)
  end
end

-- Marks, 'i<id>' of a message and 't<turn>' of a settlement, last for a day. They are listed in the
-- order of their age, as '<at>:<person>:<mark>', by which they are found when they are over, or
-- when the person goes.
local function set_mark(mark, person, value)
  redis.call('HSET', conv .. ':m', mark, value)
  redis.call('RPUSH', conv .. ':o', table.concat({string.format('%.0f', now()), person, mark}, ':'))
  lasts_at_most(conv .. ':m', DAY)
  lasts_at_most(conv .. ':o', DAY)
end

local function split_mark(listed)
  return string.match(listed, '^(%d+):([^:]+):(.*)$')
end
