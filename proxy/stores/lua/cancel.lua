-- Undo an admission of which nobody knows whether it took place: its reply never came.
-- KEYS: leases, meters.
-- ARGV: now, lease as it was asked for, plans.

local now = clock(ARGV[1])
for _, lease in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local at, tokens, asked = string.match(lease, '^(%d+) (%d+) (.*)$')
  if asked == ARGV[2] then
    redis.call('ZREM', KEYS[1], lease)
    correct(read_meters(2, ARGV[3], now), -tokens, -1, tonumber(at), now)
    return 1
  end
end
return 0
