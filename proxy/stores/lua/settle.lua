-- Put what a call used in place of what was reserved, and give its lease back, lapsed or not. Once.
-- KEYS: leases, meters.
-- ARGV: now, lease, when it was admitted, tokens more or fewer, requests more or fewer, plans.

local now = clock(ARGV[1])
if redis.call('ZREM', KEYS[1], ARGV[2]) == 1 then
  correct(read_meters(2, ARGV[6], now), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[3]), now)
end
return 1
