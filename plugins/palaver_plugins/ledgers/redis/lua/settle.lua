-- ARGV: name turn fence expect entries, the closing: {outcome, asked = {{person, text}, …} of the
-- turn's own messages and of those taken, taken = their ids, waiting, people, next (a turn's id),
-- dead = {problem, {{person, message}, …}}, indexes, events_kept, history_kept}.
-- Returns index, offset, stop, steering.
local expect, digest = tonumber(ARGV[4]), redis.sha1hex(ARGV[5])
local marks, entries, closing = conv .. ':m', cmsgpack.unpack(ARGV[5]), cmsgpack.unpack(ARGV[6])
if not owned then
  local by, expected, written, index, reached, stop, steering = string.match(
    redis.call('HGET', marks, 't' .. turn) or '', '^(%d+) (%d+) (%x+) (%d+) (%d+) (%d) (%d+)$')
  if by ~= fence then
    return redis.error_reply('FENCED the claim is over')
  end
  if tonumber(expected) ~= expect or written ~= digest then
    return redis.error_reply('INDEX ' .. index)
  end
  return {tonumber(index), tonumber(reached), tonumber(stop), tonumber(steering)}
end

local key, reply = conv .. ':t:' .. turn, conv .. ':r:' .. turn
local at, length, stop, times, person, attempt, messages, others, before, successor = unpack(
  redis.call('HMGET', key, 'index', 'length', 'stop', 'times', 'person', 'attempt', 'messages',
    'others', 'interrupted', 'successor'))
local index = tonumber(at)
if index ~= expect then
  return redis.error_reply('INDEX ' .. at)
end
if not length_after(entries, tonumber(length)) then
  return redis.error_reply('TEXT it does not continue')
end
local items = steering_of(turn)
for i, id in ipairs(closing.taken) do
  if not items[i] or items[i][3] ~= id then
    return redis.error_reply('INDEX ' .. at .. ', and does not have that steering')
  end
end

touch(closing.indexes, name)
local events = apply(turn, entries)
local skill = redis.call('HGET', key, 'skill') or ''
local said = redis.call('GET', reply) or ''
local time = now()
index = index + #entries

-- The lines of history: what was asked, each line its person's, and the reply.
local function asked_at()
  local moments = {}
  for moment in string.gmatch(times, '%d+') do
    moments[#moments + 1] = moment
  end
  for i = 1, #closing.taken do
    moments[#moments + 1] = items[i][1]
  end
  return moments
end

local function write_lines()
  local moments = asked_at()
  for i, asked in ipairs(closing.asked) do
    redis.call('RPUSH', conv .. ':h', table.concat({
      asked[1], ':{"role":"user","text":', asked[2], ',"turn":"', turn, '","at":',
      json_time(moments[i]), ',"person":', cjson.encode(asked[1]), '}'}))
  end
  redis.call('RPUSH', conv .. ':h', table.concat({
    person, ':{"role":"assistant","text":', cjson.encode(said), ',"turn":"', turn, '","at":',
    json_time(time), ',"skill":', cjson.encode(skill), ',"outcome":"', closing.outcome, '"}'}))
  redis.call('LTRIM', conv .. ':h', -closing.history_kept, -1)
  lasts(conv .. ':h')
end

local function keep_waiting()
  if closing.waiting == '' then
    redis.call('HDEL', conv, 'waiting')
    return
  end
  local people = split_waiting(redis.call('HGET', conv, 'waiting') or '') or ''
  redis.call('HSET', conv, 'waiting', people .. closing.people .. '\n' .. closing.waiting)
end

-- Hand the messages of a stopped turn to the one that waits for that.
local function interrupt()
  local follower = successor and conv .. ':t:' .. successor
  if closing.outcome == 'stopped' and follower and redis.call('EXISTS', follower) == 1 then
    local many = #asked_at() - #closing.taken + tonumber(others or 0)
    redis.call('HSET', follower, 'others', many,
      'interrupted', (before and before .. ',' or '') .. messages)
  end
end

write_lines()
if closing.dead then
  bury(turn, person, closing.dead, attempt, said, skill, time)
end
redis.call('LPOP', conv .. ':q')
redis.call('DEL', key, reply, conv .. ':j:' .. turn, conv .. ':g:' .. turn,
  redis.call('HGET', conv, 'mark'))
redis.call('HDEL', conv, 'mark', 'worker')
redis.call('HSET', conv, 'running', '')
count('running', -1)
keep_waiting()
interrupt()
local left = {unpack(items, #closing.taken + 1)}
if #left > 0 then
  for _, event in ipairs(go_on_with(left, closing.next)) do
    events[#events + 1] = event
  end
end
local offset = emit(tonumber(held[3]), events)
redis.call('XTRIM', conv .. ':s', 'MAXLEN', closing.events_kept)
lasts_at_most(conv .. ':s', WEEK)
set_mark('t' .. turn, person, table.concat({
  fence, expect, digest, index, string.format('%.0f', offset), stop, #items}, ' '))
enqueue(name)
return {index, offset, tonumber(stop), #items}
