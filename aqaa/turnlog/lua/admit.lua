-- Lets a turn in while there are fewer live ones than the limit; one that is in stays in, and is renewed.
-- KEYS live
-- ARGV member, limit, lease ms
-- OK live, FULL live
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now())
local live = redis.call('ZCARD', KEYS[1])
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  if live >= tonumber(ARGV[2]) then return { 'FULL', live } end
  live = live + 1
end
redis.call('ZADD', KEYS[1], now() + tonumber(ARGV[3]), ARGV[1])
return { 'OK', live }
