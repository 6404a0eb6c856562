-- Take a ticket out of line. ARGV: lease, model, ticket.

return drop(ARGV[2], ARGV[3])
