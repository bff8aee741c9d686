-- The slots of all replicas that are alive.
-- KEYS slots
-- OK slots free
local slots, free = 0, 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now(), '+inf')) do
  local all, some = string.match(member, ' (%d+) (%d+)$')
  slots, free = slots + tonumber(all), free + tonumber(some)
end
return { 'OK', slots, free }
