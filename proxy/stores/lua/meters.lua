-- The arithmetic of proxy/windows.py, on the server. It stands before every script here.
--
-- Times are microseconds, buckets and the edges of calendar windows as in windows.py. A meter's key holds
-- {since, read_at, base, bucket, used, bucket, used, ...}, oldest bucket first. What a meter is comes from the plan:
-- {limit or -1, counts tokens, seconds, width} of a sliding window, {limit, counts tokens, edges} of a calendar one.

local SECOND = 1000000
local KEPT = 60 -- seconds that a key outlives its last bucket
local LEASES_KEPT = 32 * 86400 -- seconds: longer than a month, so that what was lost is found in its month

local function clock(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * SECOND + time[2]
end

local function bucket_of(meter, at)
  if meter.width then return math.floor(at / (meter.width * SECOND)) end
  for i = #meter.edges, 1, -1 do
    if at >= meter.edges[i] * SECOND then return meter.edges[i] end
  end
  return 0
end

local function leaves_at(meter, bucket)
  if meter.width then return (bucket + 1) * meter.width + meter.seconds end
  for i = 1, #meter.edges - 1 do
    if meter.edges[i] == bucket then return meter.edges[i + 1] end
  end
  return bucket
end

local function oldest_bucket(meter, now)
  if meter.width then return math.floor((now - meter.seconds * SECOND) / (meter.width * SECOND)) end
  return bucket_of(meter, now)
end

local function read_meter(key, plan, now)
  local meter = {key = key, tokens = plan[2], buckets = {}, used = 0, since = -1, read_at = -1, base = 0}
  if plan[1] >= 0 then meter.limit = plan[1] end
  if type(plan[3]) == 'table' then meter.edges = plan[3] else meter.seconds, meter.width = plan[3], plan[4] end
  local kept = redis.call('GET', key)
  if not kept then return meter end
  kept = cmsgpack.unpack(kept)
  local oldest = oldest_bucket(meter, now)
  meter.since, meter.read_at, meter.base = kept[1], kept[2], kept[3]
  if meter.base ~= 0 and bucket_of(meter, meter.since) < oldest then meter.base = 0 end
  meter.used = meter.base
  for i = 4, #kept, 2 do
    if kept[i] >= oldest then
      table.insert(meter.buckets, {kept[i], kept[i + 1]})
      meter.used = meter.used + kept[i + 1]
    end
  end
  return meter
end

local function read_meters(first, plans, now)
  local meters = {}
  for i, plan in ipairs(cjson.decode(plans)) do
    meters[i] = read_meter(KEYS[first + i - 1], plan, now)
  end
  return meters
end

local function last_bucket(meter)
  if #meter.buckets > 0 then return meter.buckets[#meter.buckets][1] end
  return bucket_of(meter, meter.since)
end

local function write_meter(meter, now)
  local kept = {meter.since, meter.read_at, meter.base}
  for _, bucket in ipairs(meter.buckets) do
    table.insert(kept, bucket[1])
    table.insert(kept, bucket[2])
  end
  local seconds = math.ceil(leaves_at(meter, last_bucket(meter)) - now / SECOND) + KEPT
  redis.call('SET', meter.key, cmsgpack.pack(kept), 'EX', math.max(KEPT, seconds))
end

local function add(meter, amount, now)
  local bucket, last = bucket_of(meter, now), meter.buckets[#meter.buckets]
  if last and last[1] >= bucket then
    last[2] = last[2] + amount
  else
    table.insert(meter.buckets, {bucket, amount})
  end
  meter.used = meter.used + amount
end

-- Add to what was used at a moment, unless that has left the window, or the meter is counted only since later.
local function adjust(meter, amount, at, now)
  local bucket = bucket_of(meter, at)
  if at < meter.since or bucket < oldest_bucket(meter, now) then return false end
  for _, held in ipairs(meter.buckets) do
    if held[1] >= bucket then
      held[2] = held[2] + amount
      meter.used = meter.used + amount
      return true
    end
  end
  return false
end

-- Put so many tokens and requests, more or fewer, where a call was charged.
local function correct(meters, tokens, requests, at, now)
  for _, meter in ipairs(meters) do
    local change = meter.tokens and tokens or requests
    if change ~= 0 and adjust(meter, change, at, now) then write_meter(meter, now) end
  end
end

local function frees_at(meter, amount)
  local freed = meter.base
  if freed >= amount then return leaves_at(meter, bucket_of(meter, meter.since)) end
  for _, bucket in ipairs(meter.buckets) do
    freed = freed + bucket[2]
    if freed >= amount then return leaves_at(meter, bucket[1]) end
  end
end

-- Of each meter: used, microseconds until it is empty, since when it is counted, when the ledger was read.
local function readings(meters, now)
  local told = {}
  for _, meter in ipairs(meters) do
    local resets = meter.used > 0 and leaves_at(meter, last_bucket(meter)) * SECOND - now or 0
    table.insert(told, {meter.used, resets, meter.since, meter.read_at})
  end
  return told
end
