-- ARGV: number and bytes of history entries. Returns a Snapshot as JSON.
local generation, offset, running = unpack(
  redis.call('HMGET', conv, 'generation', 'offset', 'running'))
local pending = {}
for i, turn in ipairs(redis.call('LRANGE', conv .. ':q', 0, -1)) do
  local messages, skill, times = unpack(
    redis.call('HMGET', conv .. ':t:' .. turn, 'messages', 'skill', 'accepted_at'))
  pending[i] = table.concat({
    '{"turn":"', turn, '","messages":', json_list({messages, unpack(messages_of(steering_of(turn)))}),
    ',"running":', turn == running and 'true' or 'false',
    ',"reply":', cjson.encode(redis.call('GET', conv .. ':r:' .. turn) or ''),
    ',"skill":', cjson.encode(skill or ''),
    ',"at":', json_time(tonumber(string.match(times, '^%d+'))), '}'})
end
-- Returns the alternatives in groups, as a JSON list of lists.
local function alternatives()
  local groups, order, found = {}, {}, redis.call('HGETALL', conv .. ':f')
  for i = 1, #found, 2 do
    local place, parent = string.match(found[i + 1], '^(%d+) (%S+)$')
    if not groups[parent] then
      groups[parent] = {}
      order[#order + 1] = parent
    end
    local group = groups[parent]
    group[#group + 1] = {tonumber(place), found[i]}
  end
  local lists = {}
  for _, parent in ipairs(order) do
    local group, turns = groups[parent], {}
    table.sort(group, function(one, other) return one[1] < other[1] end)
    for i, each in ipairs(group) do
      turns[i] = '"' .. each[2] .. '"'
    end
    if #turns > 1 then
      lists[#lists + 1] = json_list(turns)
    end
  end
  return json_list(lists)
end

local history, earlier = select_history(tonumber(ARGV[1]), tonumber(ARGV[2]), stopped_history())
return table.concat({
  '{"cursor":{"epoch":"', epoch_of(generation), '","offset":', offset or '0', '},"history":',
  history, ',"earlier":"', earlier, '","pending":', json_list(pending), ',"alternatives":', alternatives(), '}'})
