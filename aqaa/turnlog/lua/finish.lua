-- Ends a turn: the first one decides, everyone learns what was decided. It takes the pen from the runner, and
-- unless the turn is completed from the front too. A cancel that comes later changes no end; but what was played
-- is kept, and the front that still tells a completed turn is told to stop.
-- KEYS state, query, answer, delivery
-- ARGV phase, terminal state, role ('' where no owner ends it), owner, absent (only if nobody has held this role
--      lately; or ''), for so many ms, played samples or '', ttl ms, publish, front channel, runner channel
-- OK phase terminal, ENDED phase terminal, FENCED phase epoch, LEASED ms, EARLY phase, GONE
local state, wanted, role = KEYS[1], ARGV[1], ARGV[3]
local phase = redis.call('HGET', state, 'phase')
if not phase then return { 'GONE' } end
local news = ARGV[7] ~= '' and raise_to(state, 'played_samples', ARGV[7])
if TERMINAL[phase] then
  local asked = wanted == 'cancelled' and role == '' and ARGV[5] == ''  -- by its caller
  if asked and redis.call('HSETNX', state, 'cancel', now()) == 1 then news = true end
  if news then wake(ARGV[9], ARGV[10], 'state') end
  return { 'ENDED', phase, redis.call('HGET', state, 'terminal') }
end
if role ~= '' and not owns(state, role, ARGV[4]) then
  return { 'FENCED', phase, redis.call('HGET', state, role .. '_epoch') or '0' }
end
if ARGV[5] ~= '' then
  local left = tonumber(redis.call('HGET', state, ARGV[5] .. '_until') or 0) + tonumber(ARGV[6]) - now()
  if left > 0 then return { 'LEASED', left } end
end
if wanted == 'completed' and phase ~= 'running' then return { 'EARLY', phase } end
redis.call('HSET', state, 'phase', wanted, 'terminal', ARGV[2], 'ended', now(),
  'runner_owner', '', 'runner_until', 0)
if wanted ~= 'completed' then redis.call('HSET', state, 'front_owner', '', 'front_until', 0) end
if wanted == 'cancelled' then redis.call('HSET', state, 'cancel', now()) end
for i = 1, 4 do redis.call('PEXPIRE', KEYS[i], ARGV[8]) end
wake(ARGV[9], ARGV[10], 'state')
wake(ARGV[9], ARGV[11], 'state')
return { 'OK', wanted, ARGV[2] }
