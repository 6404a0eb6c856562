-- Keep turns from lapsing. KEYS: turns. ARGV: milliseconds, the name of each.

for at, turn in ipairs(KEYS) do
  if redis.call('GET', turn) == ARGV[at + 1] then redis.call('PEXPIRE', turn, ARGV[1]) end
end
return 0
