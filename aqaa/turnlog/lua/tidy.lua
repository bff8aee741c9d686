-- Trims the dispatch stream below the oldest entry that anyone still needs, and forgets consumers that hold
-- nothing and have been silent; `leaving` (or '') is forgotten at once.
-- KEYS dispatch
-- ARGV group, silent ms, leaving
-- OK trimmed forgotten
local oldest
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local named = {}
  for i = 1, #group, 2 do named[group[i]] = group[i + 1] end
  local first = named['last-delivered-id']
  if named['pending'] > 0 then first = redis.call('XPENDING', KEYS[1], named['name'])[2] end
  local ms, seq = string.match(first, '(%d+)-(%d+)')
  if not oldest or tonumber(ms) < oldest[1] or (tonumber(ms) == oldest[1] and tonumber(seq) < oldest[2]) then
    oldest = { tonumber(ms), tonumber(seq), first }
  end
end
local trimmed = 0
if oldest then trimmed = redis.call('XTRIM', KEYS[1], 'MINID', oldest[3]) end
local forgotten = 0
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local named = {}
  for i = 1, #consumer, 2 do named[consumer[i]] = consumer[i + 1] end
  if named['pending'] == 0 and (named['name'] == ARGV[3] or named['idle'] > tonumber(ARGV[2])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], named['name'])
    forgotten = forgotten + 1
  end
end
return { 'OK', trimmed, forgotten }
