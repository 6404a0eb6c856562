-- Take what was used of calendar meters before they were counted here.
-- KEYS: meters. ARGV: now, since or nothing, plans, what was used of each.

local now = clock(ARGV[1])
for i, meter in ipairs(read_meters(1, ARGV[3], now)) do
  local is_new = ARGV[2] == '' and meter.since < 0
  if is_new or ARGV[2] == string.format('%.0f', meter.since) then
    if is_new then meter.since, meter.buckets = now, {} end
    meter.base, meter.read_at = tonumber(ARGV[3 + i]), now
    write_meter(meter, now)
  end
end
return 1
