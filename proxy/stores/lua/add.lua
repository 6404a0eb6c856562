-- Add what a worker counted and admitted while the store was out of reach. Once: a second time, within an hour, it does nothing.
-- Of calendar meters nothing is added: they are forgotten, so that the ledger is read for them, which has it all.
-- KEYS: leases, a mark that it was done, meters.
-- ARGV: now, seconds of a lease, plans, buckets of each meter as {bucket, used, ...}, leases.

if not redis.call('SET', KEYS[2], 1, 'NX', 'EX', 3600) then return 0 end
local now = clock(ARGV[1])
local counted = cjson.decode(ARGV[4])
for i, meter in ipairs(read_meters(3, ARGV[3], now)) do
  if meter.edges then redis.call('DEL', meter.key) end
  local used, names = {}, {}
  for _, bucket in ipairs(meter.buckets) do used[bucket[1]] = bucket[2] end
  for j = 1, #counted[i], 2 do
    used[counted[i][j]] = (used[counted[i][j]] or 0) + counted[i][j + 1]
  end
  for bucket in pairs(used) do table.insert(names, bucket) end
  table.sort(names)
  meter.buckets = {}
  for _, bucket in ipairs(names) do table.insert(meter.buckets, {bucket, used[bucket]}) end
  if #names > 0 and not meter.edges then write_meter(meter, now) end
end
for i = 5, #ARGV do
  redis.call('ZADD', KEYS[1], now + ARGV[2] * SECOND, ARGV[i])
  redis.call('EXPIRE', KEYS[1], LEASES_KEPT)
end
return 1
