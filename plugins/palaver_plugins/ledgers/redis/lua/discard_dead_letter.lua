-- ARGV: a turn. Returns 1 when it was a dead letter.
return delete_dead_letter(ARGV[1])
