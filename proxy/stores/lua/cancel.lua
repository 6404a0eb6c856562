-- Undo an admission of which nobody knows whether it took place: its reply never came.
-- KEYS: leases, lost leases, meters.
-- ARGV: now, lease as it was asked for, plans.

local now = clock(ARGV[1])
local meters = read_meters(3, ARGV[3], now)
local found = redis.call('ZRANGE', KEYS[1], 0, -1)
for _, lease in ipairs(redis.call('SMEMBERS', KEYS[2])) do table.insert(found, lease) end
for _, lease in ipairs(found) do
  local at, tokens, asked = string.match(lease, '^(%d+) (%d+) (.*)$')
  if asked == ARGV[2] then
    redis.call('ZREM', KEYS[1], lease)
    correct(meters, -tokens, -1, tonumber(at), now)
    return 1
  end
end
return 0
