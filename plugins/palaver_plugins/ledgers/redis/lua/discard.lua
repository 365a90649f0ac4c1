-- ARGV: a turn. Returns whether it lay among the dead letters.
return forget_letter(ARGV[1])
