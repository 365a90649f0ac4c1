-- ARGV: limit. Returns the newest dead letters as JSON.
local found, limit = {}, tonumber(ARGV[1])

if limit > 0 then
  each_dead_letter(function(turn, letter)
    local messages = json_of(cmsgpack.unpack(letter.messages))
    found[#found + 1] = table.concat({
      '{"turn":"', turn, '","messages":', json_list(messages), ',"attempt":', letter.attempt,
      ',"reply":', cjson.encode(letter.reply), ',"skill":', cjson.encode(letter.skill),
      ',"reason":', cjson.encode(letter.reason), ',"at":', json_time(letter.at), '}'})
    return #found == limit
  end)
end
return json_list(found)
