-- Says how many backbone slots a replica has, and how many of them are free; less than none takes it out.
-- Members are "replica slots free" (a replica: name@bundle), scored by when they expire.
-- KEYS slots
-- ARGV replica, slots, free, lease ms
-- OK
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now())
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if string.match(member, '^(%S+) ') == ARGV[1] then redis.call('ZREM', KEYS[1], member) end
end
if tonumber(ARGV[2]) >= 0 then
  redis.call('ZADD', KEYS[1], now() + tonumber(ARGV[4]), ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
end
return { 'OK' }
