-- Keep leases from lapsing, and bring those back to life that had. KEYS: leases. ARGV: now, seconds, leases.

local until_then = clock(ARGV[1]) + ARGV[2] * SECOND
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], 'XX', until_then, ARGV[i]) end
return 1
