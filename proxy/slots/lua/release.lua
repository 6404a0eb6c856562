-- Give a slot back, and hand it over. ARGV: lease, url, ticket.

redis.call('ZREM', P .. 'busy:' .. ARGV[2], ARGV[3])
if not is_held_back() then hand_over(ARGV[2], '') end
return 1
