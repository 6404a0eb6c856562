-- Look for an answer, and take its turn if it is free. KEYS: answer, turn, epoch.
-- ARGV: the name of the turn, or nothing to take none; milliseconds that it lasts unless renewed.
-- Gives: what was found, the epoch, the answer. A turn of '!' is one that came to nothing: then all go their own ways for a while.

local KEPT, OWN, ANOTHERS, FREE = 0, 1, 2, 3
local epoch = redis.call('GET', KEYS[3]) or '0'
local answer = redis.call('GET', KEYS[1])
if answer then return {KEPT, epoch, answer} end
local turn = redis.call('GET', KEYS[2])
if turn == '!' then return {FREE, epoch, ''} end
if turn then return {ANOTHERS, epoch, ''} end
if ARGV[1] == '' then return {FREE, epoch, ''} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {OWN, epoch, ''}
