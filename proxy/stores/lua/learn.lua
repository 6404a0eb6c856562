-- Learn what was used of calendar meters before they were counted here.
-- KEYS: meters. ARGV: now, since or nothing, when the ledger was read, plans, what was used of each.
-- What was read of another day or month than today's is of no use.

local now, read_at = clock(ARGV[1]), tonumber(ARGV[3])
for i, meter in ipairs(read_meters(1, ARGV[4], now)) do
  local is_new = ARGV[2] == '' and meter.since < 0
  local is_known = ARGV[2] == string.format('%.0f', meter.since)
  if (is_new or is_known) and bucket_of(meter, read_at) == bucket_of(meter, now) then
    if is_new then meter.since, meter.buckets = now, {} end
    meter.base, meter.read_at = tonumber(ARGV[4 + i]), now
    write_meter(meter, now)
  end
end
return 1
