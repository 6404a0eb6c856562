-- Say that a worker is alive, or only ask who is. KEYS: workers, epoch. ARGV: now, worker or nothing, seconds that it counts as alive, a new epoch.
-- The epoch is this memory's name: another one means that all that was counted is lost. Gives: now, epoch, workers.

local now = clock(ARGV[1])
if ARGV[2] ~= '' then redis.call('ZADD', KEYS[1], now, ARGV[2]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3] * SECOND)
redis.call('EXPIRE', KEYS[1], 3600)
redis.call('SET', KEYS[2], ARGV[4], 'NX')
redis.call('EXPIRE', KEYS[2], 40 * 86400)
local workers = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(workers)
return {now, redis.call('GET', KEYS[2]), workers}
