#!lua flags=allow-oom
-- Opens a rebuild: from here to `rebuild_ready` nothing but this rebuild writes to our keys.
--
-- KEYS  epoch marker, order stream, Postgres's WAL position
-- ARGV  epoch, consumer group
--
-- Reply
--   CODE begun 0
--   CODE newer 1  the marker belongs to a newer epoch; nothing was written

if redis.call('TYPE', KEYS[1]).ok == 'string' then
  local marker = redis.call('GET', KEYS[1])
  local theirs = tonumber(string.match(marker, '^%a+:(%d+)%-')) or -1
  local ours = tonumber(string.match(ARGV[1], '^(%d+)%-'))
  local same = marker == 'building:' .. ARGV[1]
  if theirs > ours or (theirs == ours and not same) then return 1 end
else
  redis.call('DEL', KEYS[1])
end
redis.call('SET', KEYS[1], 'building:' .. ARGV[1])

local lsn_type = redis.call('TYPE', KEYS[3]).ok
if lsn_type ~= 'string' and lsn_type ~= 'none' then redis.call('DEL', KEYS[3]) end
local type = redis.call('TYPE', KEYS[2]).ok
if type ~= 'stream' and type ~= 'none' then redis.call('DEL', KEYS[2]) end
local has_group = false
if type == 'stream' then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
    if group[2] == ARGV[2] then has_group = true end
  end
end
-- From 0: a group made at $ would skip the entries that nobody has recorded yet.
if not has_group then redis.call('XGROUP', 'CREATE', KEYS[2], ARGV[2], '0', 'MKSTREAM') end
return 0
