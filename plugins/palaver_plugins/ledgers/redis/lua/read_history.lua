-- ARGV: the position before which entries are wanted, or '', how many, the limit of bytes. Returns a
-- HistoryPage as JSON.
local entries, earlier = select_history(
  tonumber(ARGV[2]), tonumber(ARGV[3]), stopped_history(), tonumber(ARGV[1]), true)
return '{"history":' .. entries .. ',"earlier":"' .. earlier .. '"}'
