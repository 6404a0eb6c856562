-- Take note of lapsed leases, so that they are not told again. They stay for a day, in case their holder comes back.
-- KEYS: leases. ARGV: now, leases. A noted lease has the moment as its score, below zero.

local now = clock(ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', -now, ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], -(now - 86400 * SECOND), 0)
return 1
