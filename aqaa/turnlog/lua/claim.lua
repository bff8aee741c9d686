-- Keeps a dispatch entry that is still pending for this consumer; a bare XCLAIM would steal it back from whoever
-- has it now. With an idle time it offers the entry to the next scan instead. Neither counts as a delivery.
-- KEYS dispatch
-- ARGV group, consumer, entry, idle ms or '', deliveries before this one
-- OK, LOST
local mine = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if not mine[1] then return { 'LOST' } end
local claimed
if ARGV[4] == '' then
  claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')
else
  claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3],
    'IDLE', ARGV[4], 'RETRYCOUNT', ARGV[5], 'JUSTID')
end
if not claimed[1] then return { 'LOST' } end
return { 'OK' }
