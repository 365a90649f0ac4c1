-- ARGV: prefix of conversation keys. Returns the unsettled turns of the partition by tenant and
-- person, as a flat list: tenant, person, turns, bytes of their messages, and so on.
local groups, order = {}, {}

for _, name in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
  local tenant = string.match(name, '^[^/]+')
  for _, turn in ipairs(redis.call('LRANGE', ARGV[1] .. name .. ':q', 0, -1)) do
    local key = ARGV[1] .. name .. ':t:' .. turn
    local person = redis.call('HGET', key, 'person')
    if person then
      local group = tenant .. '/' .. person
      if not groups[group] then
        groups[group] = {tenant, person, 0, 0}
        order[#order + 1] = group
      end
      groups[group][3] = groups[group][3] + 1
      groups[group][4] = groups[group][4] + redis.call('HSTRLEN', key, 'messages')
    end
  end
end

local rows = {}
for _, group in ipairs(order) do
  for _, value in ipairs(groups[group]) do
    rows[#rows + 1] = value
  end
end
return rows
