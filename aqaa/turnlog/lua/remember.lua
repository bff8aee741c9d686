-- Writes what a session keeps of a turn, as long as the session is there and the caller's.
-- KEYS meta
-- ARGV caller, turn, summary, forget (1: what the turn knew is needed no more), session ttl ms
-- OK, FOREIGN
local caller = redis.call('HGET', KEYS[1], 'caller')
if caller ~= ARGV[1] or not redis.call('HGET', KEYS[1], 'number:' .. ARGV[2]) then return { 'FOREIGN' } end
redis.call('HSET', KEYS[1], 'turn:' .. ARGV[2], ARGV[3])
if ARGV[4] == '1' then redis.call('HDEL', KEYS[1], 'known:' .. ARGV[2]) end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return { 'OK' }
