-- Forget answers, up to so many in one go. KEYS: epoch, ends, sizes, total. ARGV: how many, whether a new epoch begins.
-- Gives how many were forgotten.

if ARGV[2] == '1' then
  redis.call('INCR', KEYS[1])
  redis.call('PEXPIRE', KEYS[1], 40 * 86400 * 1000)
end
local names = redis.call('ZPOPMIN', KEYS[2], ARGV[1])
local forgotten = 0
for at = 1, #names, 2 do
  forgotten = forgotten + redis.call('UNLINK', names[at])
  local size = redis.call('HGET', KEYS[3], names[at])
  if size then
    redis.call('HDEL', KEYS[3], names[at])
    redis.call('DECRBY', KEYS[4], size)
  end
end
return {#names / 2, forgotten}
