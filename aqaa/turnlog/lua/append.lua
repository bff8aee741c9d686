-- The only way into a stream. An empty role restores what a failover lost: it was fenced when it was first written.
-- KEYS state, stream
-- ARGV role, owner, stream name, sequence, hash before it, hash, data, ttl ms, publish, channel,
--      keep (0: all; else at most so many entries), below (trim entries under this sequence; 0: none)
-- OK, DUP, GAP last, CONFLICT last, GONE, FENCED phase epoch
local state, stream = KEYS[1], KEYS[2]
local role, owner, name, seq = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local phase = redis.call('HGET', state, 'phase')
if not phase then return { 'GONE' } end
if role ~= '' and not owns(state, role, owner) then
  return { 'FENCED', phase, redis.call('HGET', state, role .. '_epoch') or '0' }
end
local last = tonumber(redis.call('HGET', state, 'last:' .. name) or 0)
if seq > last + 1 then return { 'GAP', last } end
if last > 0 and redis.call('EXISTS', stream) == 0 then return { 'GONE' } end
if seq <= last then
  local found = redis.call('XRANGE', stream, '0-' .. seq, '0-' .. seq)
  if found[1] then
    local fields = found[1][2]
    for i = 1, #fields, 2 do
      if fields[i] == 'h' and fields[i + 1] == ARGV[6] then return { 'DUP' } end
    end
  end
  return { 'CONFLICT', last }
end
if (redis.call('HGET', state, 'hash:' .. name) or '') ~= ARGV[5] then return { 'CONFLICT', last } end
redis.call('XADD', stream, '0-' .. seq, 'd', ARGV[7], 'h', ARGV[6])
redis.call('HSET', state, 'last:' .. name, seq, 'hash:' .. name, ARGV[6])
if tonumber(ARGV[11]) > 0 then redis.call('XTRIM', stream, 'MAXLEN', ARGV[11]) end
if tonumber(ARGV[12]) > 0 then redis.call('XTRIM', stream, 'MINID', '0-' .. ARGV[12]) end
redis.call('PEXPIRE', state, ARGV[8])
redis.call('PEXPIRE', stream, ARGV[8])
-- the reader has the entry at once, and reads the stream only where it missed one before it
wake(ARGV[9], ARGV[10], name .. ' ' .. seq .. ' ' .. ARGV[6] .. ARGV[7])
return { 'OK' }
