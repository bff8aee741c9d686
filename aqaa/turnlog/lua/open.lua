-- Opens a turn: its state, its spec as query entry 1, its place in the session, its front. Repeating it is safe.
-- KEYS state, query, meta
-- ARGV caller, spec, spec hash, turn, known history, front nonce, lease ms, turn ttl ms, session ttl ms
-- OPENED, EXISTS phase, FOREIGN
local state, query, meta = KEYS[1], KEYS[2], KEYS[3]
local caller, spec, hash, turn, history, nonce = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local session_caller = redis.call('HGET', meta, 'caller')
if session_caller and session_caller ~= caller then return { 'FOREIGN' } end
local phase = redis.call('HGET', state, 'phase')
if phase then
  if redis.call('HGET', state, 'caller') ~= caller then return { 'FOREIGN' } end
  return { 'EXISTS', phase }
end
redis.call('DEL', query)
redis.call('HSET', state, 'phase', 'open', 'caller', caller, 'opened', now(),
  'last:query', 1, 'hash:query', hash,
  'front_owner', '1.' .. nonce, 'front_epoch', 1, 'front_until', now() + tonumber(ARGV[7]))
redis.call('XADD', query, '0-1', 'd', spec, 'h', hash)
redis.call('HSET', meta, 'caller', caller, 'known:' .. turn, history)
if redis.call('HSETNX', meta, 'number:' .. turn, 0) == 1 then
  redis.call('HSET', meta, 'number:' .. turn, redis.call('HINCRBY', meta, 'turns', 1))
end
redis.call('PEXPIRE', state, ARGV[8])
redis.call('PEXPIRE', query, ARGV[8])
redis.call('PEXPIRE', meta, ARGV[9])
return { 'OPENED' }
