-- Storage quotas, by the rules of `palaver.storage`.

-- Returns the limit of {bytes, conversations} that an owner would exceed, or nil; -1 is no limit.
local function storage_excess(index, quota, size, conversations)
  remove_expired_names(index)
  local stored = tonumber(redis.call('HGET', sizes_key(index), '') or 0)
  if quota[1] >= 0 and stored + size > quota[1] then
    return 'stored_bytes'
  end
  if quota[2] >= 0 and conversations > 0
    and redis.call('ZCARD', index) + conversations > quota[2] then
    return 'conversations'
  end
end

-- Returns the quota that a message would exceed, or nil.
local function exceeded_quota(person_indexes, person, policies, size, is_member)
  local is_new = redis.call('EXISTS', conv .. ':u') == 0 and 1 or 0
  local excess = storage_excess(
    person_indexes .. person, policies.person_storage, size, is_member and 0 or 1)
  if excess then
    return 'person ' .. excess
  end
  excess = storage_excess(person_indexes, policies.tenant_storage, size, is_new)
  return excess and 'tenant ' .. excess
end
