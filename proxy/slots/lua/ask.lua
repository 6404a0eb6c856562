-- Put a ticket in line, or change what it takes. ARGV: lease, worker, ticket, model, rank or nothing, {url = capacity}.
-- Gives: the upstream that it got a slot of or nothing, its rank, how many are before it. A ticket that has one already is told so.

local worker, ticket, model, rank, places = ARGV[2], ARGV[3], ARGV[4], ARGV[5], cjson.decode(ARGV[6])
local line = P .. 'line:' .. model

local function least_loaded()
  local best, least = nil, 1
  for url, capacity in pairs(places) do
    local part = busy(url) / capacity
    if part < least or (part == least and best and url < best) then best, least = url, part end
  end
  return best
end

-- A rank is the moment of arrival, and no two are the same. In line a ticket keeps the one that it has there.
local stood = redis.call('ZSCORE', line, ticket)
if stood then
  rank = string.format('%.0f', tonumber(stood))
elseif rank == '' then
  local newest = tonumber(redis.call('GET', P .. 'arrivals') or 0)
  rank = string.format('%.0f', math.max(newest + 1, time[1] * 1000000 + time[2]))
  redis.call('SET', P .. 'arrivals', rank)
end
redis.call('PEXPIRE', P .. 'arrivals', KEPT)
for url in pairs(places) do
  if redis.call('ZSCORE', P .. 'busy:' .. url, ticket) then return {url, rank, 0} end
end
local is_open = not is_held_back()
local best = is_open and least_loaded()
if best and redis.call('ZCARD', line) == 0 then
  hold(best, ticket)
  return {best, rank, 0}
end

redis.call('ZADD', line, rank, ticket)
redis.call('HSET', P .. 'asks', ticket, cjson.encode({worker, places}))
for url in pairs(places) do
  redis.call('SADD', P .. 'served:' .. url, model)
  redis.call('SADD', P .. 'urls', url)
  redis.call('PEXPIRE', P .. 'served:' .. url, KEPT)
end
for _, key in ipairs({line, P .. 'asks', P .. 'urls'}) do redis.call('PEXPIRE', key, KEPT) end
while best do
  local before = busy(best)
  if hand_over(best, ticket) then return {best, rank, 0} end
  if busy(best) == before then break end
  best = least_loaded()
end
return {'', rank, redis.call('ZRANK', line, ticket)}
