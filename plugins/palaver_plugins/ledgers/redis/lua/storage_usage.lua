-- KEYS: state, queue, an index of conversations. Returns the bytes and the conversations in it.
remove_expired_names(KEYS[3])
return {
  tonumber(redis.call('HGET', sizes_key(KEYS[3]), '') or 0), redis.call('ZCARD', KEYS[3])}
