-- ARGV: the turn, or '' for the oldest unsettled one. Returns the state and the turn.
local turn = ARGV[1]
if turn == '' then
  turn = redis.call('LINDEX', conv .. ':q', 0)
end
if turn and redis.call('EXISTS', conv .. ':t:' .. turn) == 1 then
  redis.call('HSET', conv .. ':t:' .. turn, 'stop_requested', 1)
  return {'stopping', turn}
end
if turn and redis.call('HEXISTS', conv .. ':m', 't' .. turn) == 1 then
  return {'settled', turn}
end
return {'unknown', ''}
