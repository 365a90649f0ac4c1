-- ARGV: number and bytes of history entries. Returns a Snapshot as JSON.
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
local history, earlier = select_history(tonumber(ARGV[1]), tonumber(ARGV[2]), stopped_history())
return table.concat({
  '{"cursor":{"epoch":"', epoch_of(generation), '","offset":', offset or '0', '},"history":',
  history, ',"earlier":"', earlier, '","pending":', json_list(pending), '}'})
