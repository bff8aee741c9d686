-- How often entries have been given to someone.
-- KEYS dispatch
-- ARGV group, entry …
-- OK count …
local reply = { 'OK' }
for i = 2, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  reply[i] = pending[1] and pending[1][4] or 1
end
return reply
