-- Keep an answer, and end its turn. KEYS: answer, turn, epoch, ends (answers by when they end), sizes, total.
-- ARGV: the turn's name, the epoch in which it began, the answer, milliseconds that it is kept, its size, bytes that all may have.
-- Gives the bytes of all. Answers of an epoch that is over are not kept: all were forgotten meanwhile.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local key, ends, sizes, total = KEYS[1], KEYS[4], KEYS[5], KEYS[6]

local function forget(name)
  redis.call('ZREM', ends, name)
  local size = redis.call('HGET', sizes, name)
  if size then
    redis.call('HDEL', sizes, name)
    redis.call('DECRBY', total, size)
  end
end

if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
if (redis.call('GET', KEYS[3]) or '0') ~= ARGV[2] then return -1 end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 100)) do forget(name) end
forget(key)
redis.call('SET', key, ARGV[3], 'PX', ARGV[4])
redis.call('ZADD', ends, now + ARGV[4], key)
redis.call('HSET', sizes, key, ARGV[5])
redis.call('INCRBY', total, ARGV[5])
while tonumber(redis.call('GET', total)) > tonumber(ARGV[6]) do
  local oldest = redis.call('ZRANGE', ends, 0, 0)[1]
  if not oldest then break end
  redis.call('UNLINK', oldest)
  forget(oldest)
end
for _, name in ipairs({ends, sizes, total}) do redis.call('PEXPIRE', name, 40 * 86400 * 1000) end
return tonumber(redis.call('GET', total))
