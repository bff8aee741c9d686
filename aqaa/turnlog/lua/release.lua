-- Gives a role back before its lease ends: the next one need not wait.
-- KEYS state
-- ARGV role, owner, publish, front channel, runner channel
-- OK, FENCED phase epoch, GONE
local state, role = KEYS[1], ARGV[1]
local phase = redis.call('HGET', state, 'phase')
if not phase then return { 'GONE' } end
if not owns(state, role, ARGV[2]) then
  return { 'FENCED', phase, redis.call('HGET', state, role .. '_epoch') or '0' }
end
redis.call('HSET', state, role .. '_owner', '', role .. '_until', now())
wake(ARGV[3], ARGV[4], 'state')
wake(ARGV[3], ARGV[5], 'state')
return { 'OK' }
