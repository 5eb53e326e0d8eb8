#!lua flags=allow-oom
-- Has Redis count the entries that the group reads, where it has stopped to: after XGROUP SETID, and behind an entry
-- that was deleted unread. What was missed until then is for the caller to find.
--
-- KEYS  epoch marker, order stream, tally
-- ARGV  the marker, consumer group
--
-- Reply
--   CODE counts 0
--   CODE fenced 1  the marker is another one, or stream or group is gone; nothing was written

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 1 end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return 1 end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
  local group = {}
  for f = 1, #info, 2 do group[info[f]] = info[f + 1] end
  if group['name'] == ARGV[2] then
    if not group['entries-read'] then
      local acknowledged = tonumber(redis.call('HGET', KEYS[3], 'acknowledged') or 0) or 0
      local read = math.max(0, acknowledged + group['pending'])
      redis.call('XGROUP', 'SETID', KEYS[2], ARGV[2], group['last-delivered-id'], 'ENTRIESREAD', read)
    end
    return 0
  end
end
return 1
