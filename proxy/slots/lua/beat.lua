-- Say that a worker is alive and which slots it has, and hand over what has become free without anybody saying so.
-- ARGV: lease, worker, milliseconds that it counts as alive, the epoch that it knows or nothing, a new epoch, milliseconds that a new memory
-- waits for all workers to tell it of their leases, leases as {{ticket, url}}.
-- Gives the epoch: this memory's name. Another one than before means that all leases were lost.

redis.call('ZREMRANGEBYSCORE', P .. 'workers', '-inf', now)
redis.call('ZADD', P .. 'workers', now + ARGV[3], ARGV[2])
redis.call('PEXPIRE', P .. 'workers', KEPT)
if redis.call('SET', P .. 'epoch', ARGV[5], 'NX') then
  if ARGV[4] ~= '' then redis.call('SET', P .. 'hold', 1, 'PX', ARGV[6]) end
elseif ARGV[4] ~= '' and redis.call('GET', P .. 'epoch') ~= ARGV[4] then
  redis.call('SET', P .. 'hold', 1, 'PX', ARGV[6], 'NX') -- a new worker began this memory, and others have slots
end
for _, each in ipairs(cjson.decode(ARGV[7])) do hold(each[2], each[1]) end
if not is_held_back() then
  for _, url in ipairs(redis.call('SMEMBERS', P .. 'urls')) do hand_over(url, '') end
end
return redis.call('GET', P .. 'epoch')
