#!lua flags=allow-oom
-- Makes Redis count the entries that the group reads, if Redis has stopped counting: after XGROUP SETID, and after an
-- unread entry was deleted. The caller then searches for the entries that were missed before.
--
-- KEYS  epoch marker, order stream, tally
-- ARGV  the marker, consumer group
--
-- Reply
--   CODE done         0
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  stream or group is absent; nothing was written

--@include lib/codes
--@include lib/marker
--@include lib/fields

if is_fenced(ARGV[1]) then return FENCED end
if not has_stream() then return INCONSISTENT end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
  local group = by_name(info)
  if group['name'] == ARGV[2] then
    if not group['entries-read'] then
      local acknowledged = tonumber(redis.call('HGET', KEYS[3], 'acknowledged') or 0) or 0
      local read = math.max(0, acknowledged + group['pending'])
      redis.call('XGROUP', 'SETID', KEYS[2], ARGV[2], group['last-delivered-id'], 'ENTRIESREAD', read)
    end
    return DONE
  end
end
return INCONSISTENT
