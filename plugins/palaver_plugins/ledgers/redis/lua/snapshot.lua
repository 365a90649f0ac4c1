-- ARGV: number of history entries. Returns a Snapshot as JSON.
local limit = tonumber(ARGV[1])

-- Returns the newest history, with the turns that were stopped while they waited.
local function history_json()
  local entries = limit > 0 and redis.call('LRANGE', conv .. ':h', -limit, -1) or {}
  for _, item in ipairs(redis.call('ZRANGE', conv .. ':w', 0, -1)) do
    for _, entry in ipairs(cmsgpack.unpack(item)[3]) do
      entries[#entries + 1] = entry
    end
  end
  return json_list(without_owner({unpack(entries, math.max(1, #entries - limit + 1))}))
end

local generation, offset, running = unpack(
  redis.call('HMGET', conv, 'generation', 'offset', 'running'))
local pending = {}
for i, turn in ipairs(redis.call('LRANGE', conv .. ':q', 0, -1)) do
  local messages, skill = unpack(
    redis.call('HMGET', conv .. ':t:' .. turn, 'messages', 'skill'))
  pending[i] = table.concat({
    '{"turn":"', turn, '","messages":', json_list({messages, unpack(messages_of(steering_of(turn)))}),
    ',"running":', turn == running and 'true' or 'false',
    ',"reply":', cjson.encode(redis.call('GET', conv .. ':r:' .. turn) or ''),
    ',"skill":', cjson.encode(skill or ''), '}'})
end
return table.concat({
  '{"cursor":{"epoch":"', epoch_of(generation), '","offset":', offset or '0', '},"history":',
  history_json(), ',"pending":', json_list(pending), '}'})
