-- The fence comes first. Writes of a turn begin: name turn fence …
local name, turn, fence = unpack(ARGV, 1, 3)
local held = redis.call('HMGET', conv, 'running', 'fence', 'offset', 'until')
local owned = held[1] == turn and held[2] == fence
till = tonumber(held[4])
