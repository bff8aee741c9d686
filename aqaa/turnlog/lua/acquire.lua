-- Takes a role of a turn. The same nonce again is the same acquiring. A server that was rolled back may name an
-- owner that this one has already replaced: known epoch says so, and such a ghost's lease counts for nothing.
-- KEYS state
-- ARGV role, nonce, lease ms, force (1: although leased), known epoch, dispatch entry or '', publish,
--      front channel, runner channel
-- OK epoch phase, LEASED ms entry, ENDED phase, GONE
local state, role, nonce = KEYS[1], ARGV[1], ARGV[2]
local phase = redis.call('HGET', state, 'phase')
if not phase then return { 'GONE' } end
-- Sound is made after tokens: a completed turn may still be told to a caller whose connection broke.
if TERMINAL[phase] and not (role == 'front' and phase == 'completed') then return { 'ENDED', phase } end
local epoch = tonumber(redis.call('HGET', state, role .. '_epoch') or 0)
local owner = redis.call('HGET', state, role .. '_owner') or ''
local left = tonumber(redis.call('HGET', state, role .. '_until') or 0) - now()
local known = tonumber(ARGV[5])
if owner ~= epoch .. '.' .. nonce or epoch < known then
  if owner ~= '' and left > 0 and ARGV[4] ~= '1' and epoch >= known then
    return { 'LEASED', left, redis.call('HGET', state, role .. '_entry') or '' }
  end
  epoch = math.max(epoch, known) + 1
end
redis.call('HSET', state, role .. '_owner', epoch .. '.' .. nonce, role .. '_epoch', epoch,
  role .. '_until', now() + tonumber(ARGV[3]), role .. '_entry', ARGV[6])
if role == 'runner' and phase == 'open' then
  phase = 'running'
  redis.call('HSET', state, 'phase', phase)
end
wake(ARGV[7], ARGV[8], 'state')
wake(ARGV[7], ARGV[9], 'state')
return { 'OK', epoch, phase }
