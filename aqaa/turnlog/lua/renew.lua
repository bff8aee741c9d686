-- Keeps a role, and the turn's keys alive.
-- KEYS state, query, answer, delivery, meta
-- ARGV role, owner, lease ms, turn ttl ms, session ttl ms
-- OK phase last-query last-answer last-delivery, FENCED phase epoch, GONE
local state, role = KEYS[1], ARGV[1]
local phase = redis.call('HGET', state, 'phase')
if not phase then return { 'GONE' } end
if not owns(state, role, ARGV[2]) then
  return { 'FENCED', phase, redis.call('HGET', state, role .. '_epoch') or '0' }
end
redis.call('HSET', state, role .. '_until', now() + tonumber(ARGV[3]))
for i = 1, 4 do redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
redis.call('PEXPIRE', KEYS[5], ARGV[5])
local last = redis.call('HMGET', state, 'last:query', 'last:answer', 'last:delivery')
return { 'OK', phase, last[1] or '0', last[2] or '0', last[3] or '0' }
