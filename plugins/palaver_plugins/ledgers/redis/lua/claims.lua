-- Ends the claim of the running turn.
local function end_claim()
  local claim_key = redis.call('HGET', conv, 'claim_key')
  if claim_key then
    redis.call('DEL', claim_key)
  end
  redis.call('HDEL', conv, 'claim_key', 'worker')
  redis.call('HSET', conv, 'running', '')
end
