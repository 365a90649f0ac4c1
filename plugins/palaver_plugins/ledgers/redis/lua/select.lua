-- ARGV: the turn. Returns 'selected', 'unchanged', 'unsettled' or 'unknown'.
local turn = ARGV[1]
expires_at = tonumber(redis.call('HGET', conv, 'expires_at') or nil)
if not parent_of(turn) then
  return 'unknown'
elseif redis.call('LLEN', conv .. ':q') > 0 then
  return 'unsettled'
elseif redis.call('HEXISTS', superseded_key, turn) == 0 then
  return 'unchanged'
end
restore(turn)
begin_stream()
redis.call('PUBLISH', conv .. ':e', '[]')
return 'selected'
