-- Slots and lines. It stands before every script here.
--
-- All keys begin with KEYS[1], which holds their hash tag:
--   busy:<url>     leases of an upstream's slots: tickets, by when they lapse
--   line:<model>   tickets that wait, by rank: the moment of arrival, in microseconds
--   arrivals       the newest rank
--   asks           of each ticket in line: {worker, {url = how many calls that may have}}
--   served:<url>   models that somebody has waited for there, and urls, where somebody has waited
--   workers        those that are alive, by when they count as gone
--   inbox:<worker> grants that it has to be told of: {ticket, url}
--   hold           there while nothing is granted: this memory is new, and workers still tell it of their leases
-- Times are milliseconds, ARGV[1] is for how long a lease lasts that is not renewed.

local P, LEASE = KEYS[1], tonumber(ARGV[1])
local AT_ONCE = 50 -- tickets that are looked at together
local KEPT = 3600 * 1000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function busy(url)
  redis.call('ZREMRANGEBYSCORE', P .. 'busy:' .. url, '-inf', now)
  return redis.call('ZCARD', P .. 'busy:' .. url)
end

local function hold(url, ticket)
  redis.call('ZADD', P .. 'busy:' .. url, now + LEASE, ticket)
  redis.call('PEXPIRE', P .. 'busy:' .. url, LEASE)
end

local function is_held_back()
  return redis.call('EXISTS', P .. 'hold') == 1 or redis.call('EXISTS', P .. 'epoch') == 0
end

local function is_alive(worker)
  local until_then = redis.call('ZSCORE', P .. 'workers', worker)
  return until_then and tonumber(until_then) > now
end

local function drop(model, ticket)
  redis.call('HDEL', P .. 'asks', ticket)
  return redis.call('ZREM', P .. 'line:' .. model, ticket)
end

-- The first in a line that takes an upstream's slot: its ticket, rank and ask. Tickets of dead workers are dropped on the way.
local function first_for(url, model)
  local from = 0
  while true do
    local tickets = redis.call('ZRANGE', P .. 'line:' .. model, from, from + AT_ONCE - 1, 'WITHSCORES')
    if #tickets == 0 then return nil end
    for at = 1, #tickets, 2 do
      local told = redis.call('HGET', P .. 'asks', tickets[at])
      local ask = told and cjson.decode(told)
      if not ask or not is_alive(ask[1]) then
        drop(model, tickets[at])
      elseif ask[2][url] then
        return tickets[at], tonumber(tickets[at + 1]), ask
      else
        from = from + 1
      end
    end
  end
end

-- Hand the free slots of an upstream to those who are first in line for them. `own` is told by the reply, others by their inbox.
local function hand_over(url, own)
  local models, taken, got = redis.call('SMEMBERS', P .. 'served:' .. url), busy(url), nil
  while true do
    local model, ticket, rank, ask
    for _, each in ipairs(models) do
      local its_ticket, its_rank, its_ask = first_for(url, each)
      if its_ticket and taken < its_ask[2][url] and (not rank or its_rank < rank) then
        model, ticket, rank, ask = each, its_ticket, its_rank, its_ask
      end
    end
    if not ticket then return got end
    drop(model, ticket)
    hold(url, ticket)
    taken = taken + 1
    if ticket == own then
      got = url
    else
      redis.call('RPUSH', P .. 'inbox:' .. ask[1], cjson.encode({ticket, url}))
      redis.call('PEXPIRE', P .. 'inbox:' .. ask[1], LEASE)
    end
  end
end
