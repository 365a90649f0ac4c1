-- All keys of a conversation expire at the same moment, `expires_at` (nil: never), never a part of
-- them: if its fences expired before its turns, an old claim would be valid again.
-- Activity postpones that moment, at most once an hour, or each time in a conversation that has a
-- retention of its own. A key that is created later gets it by
-- `set_expiry`. Keys with a shorter life expire by that moment too.
local expires_at
local HOUR, DAY, WEEK = 3600000, 86400000, 7 * 86400000

-- Returns the time from which the retention counts: the latest that the server's clock has shown, to
-- within an hour. What is used while the clock is behind must not be expired when it is right again.
local function retention_now()
  local seen = tonumber(seen_at or 0)
  if now() > seen + HOUR then
    seen_at = integer(now())
    redis.call('HSET', state, 'seen_at', seen_at)
  end
  return math.max(now(), seen)
end

local function set_expiry(key)
  if expires_at then
    redis.call('PEXPIREAT', key, expires_at)
  end
end

local function set_expiry_within(key, ms)
  local ends = now() + ms
  redis.call('PEXPIREAT', key, expires_at and math.min(expires_at, ends) or ends)
end

-- Beside the index of a person's conversations is a hash of the bytes that the person has stored in
-- each, and in all of them under ''. The person '' is the whole tenant.
local function sizes_key(index)
  return (string.gsub(index, '}:p:', '}:b:', 1))
end

-- And a sorted set of the same conversations by the time of the person's last message in each.
local function list_key(index)
  return (string.gsub(index, '}:p:', '}:a:', 1))
end

local function release_size(index, name)
  redis.call('ZREM', list_key(index), name)
  local sizes = sizes_key(index)
  local size = tonumber(redis.call('HGET', sizes, name) or 0)
  redis.call('HDEL', sizes, name)
  if redis.call('HLEN', sizes) <= 1 then
    redis.call('UNLINK', sizes)
  elseif size > 0 then
    redis.call('HINCRBY', sizes, '', integer(-size))
  end
  return size
end

-- Removes some of the conversations that have expired from an index.
local function remove_expired_names(index)
  for _, name in ipairs(redis.call('ZRANGE', index, '-inf', now(), 'BYSCORE', 'LIMIT', 0, 100)) do
    release_size(index, name)
    redis.call('ZREM', index, name)
  end
end

-- Adds the conversation to the index of a person, which expires with the last conversation in it.
local function index_conversation(person_indexes, person, name)
  local key = person_indexes .. person
  redis.call('ZADD', key, expires_at or '+inf', name)
  remove_expired_names(key)
  local ends = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
  for _, each in ipairs({key, sizes_key(key), list_key(key)}) do
    if ends == 'inf' then
      redis.call('PERSIST', each)
    elseif ends then
      redis.call('PEXPIREAT', each, ends)
    end
  end
end

-- Counts bytes that a person has stored in a conversation, for the person and for the tenant.
local function charge(person_indexes, person, name, size)
  for _, owner in ipairs({person, ''}) do
    local sizes = sizes_key(person_indexes .. owner)
    local is_new = redis.call('HINCRBY', sizes, name, size) == size
    redis.call('HINCRBY', sizes, '', size)
    if is_new then
      index_conversation(person_indexes, owner, name)
    end
  end
end

local function renew_expiry(key)
  if expires_at then
    redis.call('PEXPIREAT', key, expires_at)
  else
    redis.call('PERSIST', key)
  end
end

-- The key of a shared snapshot. The list ':x' of a conversation has the ids of its shares.
local function share_key(person_indexes, share)
  return (string.gsub(person_indexes, '}:p:.*$', '}:x:', 1)) .. share
end

-- Deletes the conversation's shares, and its title: they may contain the words of any member.
local function delete_shared(person_indexes)
  for _, share in ipairs(redis.call('LRANGE', conv .. ':x', 0, -1)) do
    redis.call('UNLINK', share_key(person_indexes, share))
  end
  redis.call('UNLINK', conv .. ':x')
  redis.call('HDEL', conv, 'title')
end

-- Returns for how long the conversation is kept from now on, in ms, or nil for ever. A conversation
-- may have a shorter retention of its own, which counts from its last turn; until that is settled it
-- is kept for a day at least.
local function time_to_keep(own, is_unsettled)
  local store = retention > 0 and retention or nil
  if not own then
    return store
  end
  local kept = is_unsettled and math.max(own, DAY) or own
  return store and math.min(store, kept) or kept
end

-- Keeps the conversation for the retention from now on.
local function postpone_expiry(person_indexes, name, is_unsettled)
  local own = tonumber(redis.call('HGET', conv, 'retention') or nil)
  local kept = time_to_keep(own, is_unsettled)
  local wanted = kept and retention_now() + kept
  if expires_at == wanted
    or (expires_at and wanted and not own and math.abs(wanted - expires_at) < HOUR) then
    return
  end
  expires_at = wanted
  if expires_at then
    redis.call('HSET', conv, 'expires_at', expires_at)
  else
    redis.call('HDEL', conv, 'expires_at')
  end
  for _, suffix in ipairs({'', ':q', ':h', ':w', ':u', ':x', ':v', ':f', ':b'}) do
    renew_expiry(conv .. suffix)
  end
  for _, share in ipairs(redis.call('LRANGE', conv .. ':x', 0, -1)) do
    renew_expiry(share_key(person_indexes, share))
  end
  for _, turn in ipairs(redis.call('LRANGE', conv .. ':q', 0, -1)) do
    for _, noun in ipairs({':t:', ':r:', ':j:', ':g:'}) do
      renew_expiry(conv .. noun .. turn)
    end
  end
  local owners = redis.call('SMEMBERS', conv .. ':u')
  if #owners > 0 then
    owners[#owners + 1] = ''
  end
  for _, owner in ipairs(owners) do
    renew_expiry(conv .. ':l:' .. owner)
    index_conversation(person_indexes, owner, name)
  end
end

-- Dedupe records, 'i<id>' of a message and 't<turn>' of a settled turn, expire after a day. A list
-- has them in the order of their age, as '<time>:<person>:<record>', to find the expired ones and
-- those of an erased person.
local function add_record(record, person, value)
  redis.call('HSET', conv .. ':m', record, value)
  redis.call('RPUSH', conv .. ':o', table.concat({integer(now()), person, record}, ':'))
  set_expiry_within(conv .. ':m', DAY)
  set_expiry_within(conv .. ':o', DAY)
end

local function split_record_entry(entry)
  return string.match(entry, '^(%d+):([^:]+):(.*)$')
end
