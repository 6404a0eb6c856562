-- Charge every meter and take a lease, or do neither.
-- KEYS: leases, meters.
-- ARGV: now, lease, its seconds, most at once or -1, least tokens, most tokens, plans.
-- Gives: status (0 admitted, 1 refused, 2 unknown), now, tokens, lease, refusing meter or 0, seconds or -1, lapsed
-- leases that nobody has taken note of yet, readings.

local now = clock(ARGV[1])
local least, tokens = tonumber(ARGV[5]), tonumber(ARGV[6])
local meters = read_meters(2, ARGV[7], now)
local lapsed = redis.call('ZRANGEBYSCORE', KEYS[1], '(0', now)

for _, meter in ipairs(meters) do
  if meter.edges and meter.since < 0 then return {2, now, 0, '', 0, 0, lapsed, readings(meters, now)} end
end

local refusing, wait = 0, 0
for i, meter in ipairs(meters) do
  local amount = meter.tokens and least or 1
  if meter.limit and meter.used + amount > meter.limit then
    if amount > meter.limit then return {1, now, 0, '', i, -1, lapsed, readings(meters, now)} end
    local free = frees_at(meter, meter.used + amount - meter.limit)
    local seconds = math.max(1, math.ceil((free * SECOND - now) / SECOND))
    if seconds > wait then refusing, wait = i, seconds end
  end
end
if refusing > 0 then return {1, now, 0, '', refusing, wait, lapsed, readings(meters, now)} end

local most_at_once = tonumber(ARGV[4])
if most_at_once >= 0 and redis.call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', now), '+inf') >= most_at_once then
  return {1, now, 0, '', 0, 1, lapsed, readings(meters, now)}
end

for _, meter in ipairs(meters) do
  if meter.tokens and meter.limit then tokens = math.min(tokens, meter.limit - meter.used) end
end
for _, meter in ipairs(meters) do
  local amount = meter.tokens and tokens or 1
  if amount > 0 then
    add(meter, amount, now)
    write_meter(meter, now)
  end
end
local lease = string.format('%.0f %.0f %s', now, tokens, ARGV[2])
redis.call('ZADD', KEYS[1], now + ARGV[3] * SECOND, lease)
redis.call('EXPIRE', KEYS[1], LEASES_KEPT)
return {0, now, tokens, lease, 0, 0, lapsed, readings(meters, now)}
