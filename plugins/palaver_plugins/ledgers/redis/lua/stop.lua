-- ARGV: name, the turn, number of history entries to keep, the prefix of the person indexes. Returns the
-- state and the turn. A turn that waits and has no entries is settled here, any other by its worker.
local name, turn, history_kept, person_indexes = unpack(ARGV, 1, 4)
local key = conv .. ':t:' .. turn
if redis.call('EXISTS', key) == 0 then
  if redis.call('HEXISTS', conv .. ':m', 't' .. turn) == 1 then
    return {'settled', turn}
  end
  return {'unknown', ''}
end

local running, offset, ends = unpack(redis.call('HMGET', conv, 'running', 'offset', 'expires_at'))
local person, messages, accepted_at, number, index, successor = unpack(redis.call('HMGET', key,
  'person', 'messages', 'accepted_at', 'number', 'index', 'successor'))
if turn == running or index ~= '0' or successor or #steering_of(turn) > 0 then
  redis.call('HSET', key, 'stop_requested', 1)
  return {'stopping', turn}
end
expires_at = tonumber(ends)

local ids, entries, times = {}, {}, string.gmatch(accepted_at, '%d+')
for i, message in ipairs(cjson.decode('[' .. messages .. ']')) do
  ids[i] = cjson.encode(message.id)
  local attachments, program = message.attachments, message.program or {}
  local parts = #attachments > 0 and ',"attachments":' .. cjson.encode(attachments) or ''
  for _, part in ipairs({'input', 'note'}) do
    parts = parts .. (program[part] and ',"' .. part .. '":' .. cjson.encode(program[part]) or '')
  end
  entries[i] = user_entry(turn, person, cjson.encode(message.text), times(), parts)
end
entries[#entries + 1] = reply_entry(turn, person, '""', '""', 'stopped')
redis.call('ZADD', conv .. ':w', tonumber(number or 0), cmsgpack.pack({person, turn, entries}))
set_expiry(conv .. ':w')
redis.call('LREM', conv .. ':q', 1, turn)
redis.call('DEL', key, conv .. ':r:' .. turn, conv .. ':j:' .. turn)
postpone_expiry(person_indexes, name, redis.call('LLEN', conv .. ':q') > 0)
count('queued', -1)
store_stopped_history(history_kept)
offset = append_events(tonumber(offset), {table.concat({
  '{"type":"finished","turn":"', turn, '","outcome":"stopped","length":0,"messages":',
  json_list(ids), '}'})})
set_expiry_within(conv .. ':s', WEEK)
add_record('t' .. turn, person, table.concat({0, 0, 0, 0, integer(offset), 1, 0}, ' '))
if not running or running == '' then
  enqueue(name)
end
return {'stopping', turn}
