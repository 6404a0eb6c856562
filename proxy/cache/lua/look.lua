-- Look for an answer. KEYS: answer, turn, epoch. ARGV: who asks, milliseconds that a turn lasts unless renewed, whether to take it if it is free.
-- Gives: what was found, the epoch, the answer. A turn of '!' is one that came to nothing: then all go their own ways for a while.

local KEPT, OWN, ANOTHERS, FREE = 0, 1, 2, 3
local epoch = redis.call('GET', KEYS[3]) or '0'
local answer = redis.call('GET', KEYS[1])
if answer then return {KEPT, epoch, answer} end
local turn = redis.call('GET', KEYS[2])
if turn == '!' then return {FREE, epoch, ''} end
if turn then return {ANOTHERS, epoch, ''} end
if ARGV[3] == '0' then return {FREE, epoch, ''} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {OWN, epoch, ''}
