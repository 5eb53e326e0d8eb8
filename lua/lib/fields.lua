-- Makes a table by name of a reply of XINFO, which has names and values in turn.
local function by_name(reply)
  local fields = {}
  for f = 1, #reply, 2 do fields[reply[f]] = reply[f + 1] end
  return fields
end
