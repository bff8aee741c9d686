-- What the front tells the runner besides the question. A commit is given once; the others only grow. A completed
-- turn is still told and played, so what was heard of it is still written down.
-- KEYS state
-- ARGV role, owner, publish, runner channel, then field, value …
-- OK, CONFLICT commit, ENDED phase, FENCED phase epoch, GONE
local state, role = KEYS[1], ARGV[1]
local phase = redis.call('HGET', state, 'phase')
if not phase then return { 'GONE' } end
if TERMINAL[phase] and phase ~= 'completed' then return { 'ENDED', phase } end
if not owns(state, role, ARGV[2]) then
  return { 'FENCED', phase, redis.call('HGET', state, role .. '_epoch') or '0' }
end
local changed = false
for i = 5, #ARGV, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  if field == 'commit' then
    local before = redis.call('HGET', state, field)
    if before and before ~= value then return { 'CONFLICT', before } end
    if not before then
      redis.call('HSET', state, field, value)
      changed = true
    end
  elseif raise_to(state, field, value) then
    changed = true
  end
end
if changed then wake(ARGV[3], ARGV[4], 'state') end
return { 'OK' }
