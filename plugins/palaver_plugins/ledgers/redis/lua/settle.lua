-- ARGV: name turn fence expect entries outcome text sender waiting events_kept
-- history_kept. Returns index, offset, stop.
local expect, sender, waiting = tonumber(ARGV[4]), ARGV[8], ARGV[9]
local marks, entries = conv .. ':m', cmsgpack.unpack(ARGV[5])
if not owned then
  local by, expected, index, reached, stop = string.match(
    redis.call('HGET', marks, 't' .. turn) or '', '^(%d+) (%d+) (%d+) (%d+) (%d)$')
  if by ~= fence then
    return redis.error_reply('FENCED the claim is over')
  end
  if tonumber(expected) ~= expect or expect + #entries ~= tonumber(index) then
    return redis.error_reply('INDEX ' .. index)
  end
  return {tonumber(index), tonumber(reached), tonumber(stop)}
end

local key, reply = conv .. ':t:' .. turn, conv .. ':r:' .. turn
local at, length, stop, accepted = unpack(
  redis.call('HMGET', key, 'index', 'length', 'stop', 'at'))
local index = tonumber(at)
if index ~= expect then
  return redis.error_reply('INDEX ' .. at)
end
if not length_after(entries, tonumber(length)) then
  return redis.error_reply('TEXT it does not continue')
end
local events = apply(turn, entries)
local skill = redis.call('HGET', key, 'skill') or ''
local said = redis.call('GET', reply) or ''
index = index + #entries

local time = now()
local mine = sender .. ':'
redis.call('RPUSH', conv .. ':h',
  table.concat({
    mine, '{"role":"user","text":', ARGV[7], ',"turn":"', turn, '","at":', json_time(accepted),
    ',"sender":', cjson.encode(sender), '}'}),
  table.concat({
    mine, '{"role":"assistant","text":', cjson.encode(said), ',"turn":"', turn, '","at":',
    json_time(time), ',"skill":', cjson.encode(skill), ',"outcome":"', ARGV[6], '"}'}))
redis.call('LTRIM', conv .. ':h', -tonumber(ARGV[11]), -1)

redis.call('LPOP', conv .. ':q')
redis.call('DEL', key, reply, conv .. ':j:' .. turn, redis.call('HGET', conv, 'mark'))
redis.call('HDEL', conv, 'mark', 'worker')
redis.call('HSET', conv, 'running', '')
count('running', -1)
if waiting == '' then
  redis.call('HDEL', conv, 'waiting')
else
  redis.call('HSET', conv, 'waiting', waiting)
end
local offset = emit(tonumber(held[3]), events)
redis.call('XTRIM', conv .. ':s', 'MAXLEN', ARGV[10])
redis.call('HSET', marks, 't' .. turn, table.concat({
  fence, expect, index, string.format('%.0f', offset), stop}, ' '))
if redis.call('LLEN', conv .. ':q') > 0 then
  redis.call('ZADD', queue, time, name)
  wake()
else
  redis.call('ZREM', queue, name)
end
return {index, offset, tonumber(stop)}
