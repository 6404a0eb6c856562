-- Keep leases from lapsing. KEYS: leases. ARGV: now, seconds, leases. Gives how many were still there.

local until_then, kept = clock(ARGV[1]) + ARGV[2] * SECOND, 0
for i = 3, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[1], until_then, ARGV[i])
    kept = kept + 1
  end
end
return kept
