-- ARGV: person, turn. Returns how many were deleted.
return redis.call('HDEL', conv .. ':l:' .. ARGV[1], ARGV[2])
