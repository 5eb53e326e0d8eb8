#!lua flags=allow-oom
-- Removes a consumer that is gone and has no pending entry: DELCONSUMER alone would also remove its pending entries.
--
-- KEYS  epoch marker, order stream
-- ARGV  `ready:<epoch>`, consumer group, consumer, idle time in ms after which it counts as gone
--
-- Reply
--   CODE done   0
--   CODE fenced 1  the marker is another one; nothing was written
--   CODE kept   7  it holds entries, was seen lately or is absent; nothing was written

--@include lib/codes
--@include lib/marker
--@include lib/fields

if is_fenced(ARGV[1]) then return FENCED end
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[2], ARGV[2])) do
  local consumer = by_name(info)
  if consumer['name'] == ARGV[3] and consumer['pending'] == 0 and consumer['idle'] >= tonumber(ARGV[4]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[2], ARGV[2], ARGV[3])
    return DONE
  end
end
return KEPT
