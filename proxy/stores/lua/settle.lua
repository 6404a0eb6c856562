-- Put what a call used in place of what was reserved, and give its lease back.
-- KEYS: leases, lost leases, meters.
-- ARGV: now, lease, when it was admitted, tokens more or fewer, requests more or fewer, plans.
-- Gives: 0 where the lease had lapsed and was found, else 1, also where the store has lost it.

local now = clock(ARGV[1])
if redis.call('ZREM', KEYS[1], ARGV[2]) == 0 then
  return 1 - redis.call('SISMEMBER', KEYS[2], ARGV[2])
end
correct(read_meters(3, ARGV[6], now), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[3]), now)
return 1
