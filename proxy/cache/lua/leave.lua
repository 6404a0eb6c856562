-- End a turn without an answer. KEYS: turn. ARGV: its name, milliseconds that others go their own ways; 0: the next takes the turn.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], '!', 'PX', ARGV[2])
return 1
