-- KEYS: state, queue, conversation. ARGV: name turn id digest person message, the event's rest,
-- whether a skill is named, the policies, how many messages an interruption may gather, the prefix
-- of the people's indexes.
-- Returns the turn, how many come before it, whether the message is known, whether it joined.
local name, turn, id, digest, person, message, rest = unpack(ARGV, 1, 7)
local named, policies, limit, people = ARGV[8] == '1', cmsgpack.unpack(ARGV[9]), tonumber(ARGV[10]),
  ARGV[11]
local waiting, marks, order = conv .. ':q', conv .. ':m', conv .. ':o'
local time = now()

local function place_of(turn)
  return redis.call('LPOS', waiting, turn) or 0
end

-- A mark: the turn that has the message, the digest, when it came, and the turn that was offered,
-- by which an acceptance is known whose answer was lost on the way.
local mark = redis.call('HGET', marks, 'i' .. id)
if mark then
  local first, said, at, offered = string.match(mark, '^(%S+) (%S+) (%S+) (%S+)$')
  if time - tonumber(at) < DAY then
    if said ~= digest then
      return redis.error_reply('CONFLICT another body')
    end
    local again = offered == turn
    return {first, place_of(first), again and 0 or 1, again and first ~= turn and 1 or 0}
  end
end

local running, offset, ends = unpack(redis.call('HMGET', conv, 'running', 'offset', 'until'))
local turns = redis.call('LRANGE', waiting, 0, -1)
running, till = running or '', tonumber(ends)
if messages_waiting(turns, running) >= policies.inbox then
  return redis.error_reply('TOOMANY messages wait')
end

-- The turn that the message becomes part of.
local function joined(policy)
  if named or #turns == 0 then
    return nil
  elseif policy == 'merge' and turns[#turns] ~= running then
    local newest = open_turn(turns[#turns])
    if not newest.stop and newest.person == person and time < newest.due then
      merge(newest, message, time, policies.window)
      return newest
    end
  elseif policy == 'interrupt' and running ~= '' then
    local successor = successor_of(running)
    if successor and not successor.stop and successor.person == person then
      join(successor, message, time)
      return successor
    end
  elseif policy == 'steer' and running ~= '' then
    local steered = open_turn(running)
    if not steered.stop then
      redis.call('RPUSH', conv .. ':g:' .. running,
        cmsgpack.pack({string.format('%.0f', time), person, id, message, rest}))
      lasts(conv .. ':g:' .. running)
      return steered
    end
  end
end

touch(people, name)
redis.call('HSETNX', conv, 'birth', birth_now())
local policy = policy_of(policies, running)
local taker = joined(policy)
local ahead
if taker then
  ahead = place_of(taker.id)
else
  ahead = #turns
  taker = {id = turn, due = time + (policy == 'merge' and policies.window or 0)}
  make_turn(turn, person, {message}, {string.format('%.0f', time)}, taker.due)
  if redis.call('RPUSH', waiting, turn) == 1 then
    lasts(waiting)
  end
  if policy == 'interrupt' and running ~= '' then
    interrupt_for(turn, person, running, limit)
  end
end
if ahead == 0 and running == '' then
  redis.call('ZADD', queue, taker.due, name)
end
emit(tonumber(offset or 0), {received(taker.id, rest, false, ahead)})
lasts_at_most(conv .. ':s', WEEK)

local at = string.format('%.0f', time)
set_mark('i' .. id, person, table.concat({taker.id, digest, at, turn}, ' '))
for _ = 1, 4 do
  local came, _, old = split_mark(redis.call('LINDEX', order, 0))
  if time - tonumber(came) < DAY then
    break
  end
  redis.call('LPOP', order)
  local kept = redis.call('HGET', marks, old)
  local is_newer = kept and string.sub(old, 1, 1) == 'i'
    and string.match(kept, '^%S+ %S+ (%S+)') ~= came
  if not is_newer then
    redis.call('HDEL', marks, old)
  end
end
if redis.call('SADD', conv .. ':u', person) == 1 then
  lasts(conv .. ':u')
  index(people, person, name)
end
wake()
return {taker.id, ahead, 0, taker.id ~= turn and 1 or 0}
