-- Put before every script. Times are milliseconds of this server's clock; replies begin with a status.

local TERMINAL = { completed = true, cancelled = true, failed = true }

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- `publish` is PUBLISH, or SPUBLISH on a cluster; an empty channel wakes nobody.
local function wake(publish, channel, what)
  if channel ~= '' then redis.call(publish, channel, what) end
end

-- Cleared owners are empty fields, so an empty owner never passes.
local function owns(state, role, owner)
  return owner ~= '' and redis.call('HGET', state, role .. '_owner') == owner
end

-- Keeps the largest number that a field ever had.
local function raise_to(state, field, value)
  if tonumber(value) > tonumber(redis.call('HGET', state, field) or -1) then
    redis.call('HSET', state, field, value)
    return true
  end
  return false
end
