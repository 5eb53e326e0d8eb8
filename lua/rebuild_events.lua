#!lua flags=allow-oom
-- Appends the order events of kept claims that have neither row nor entry. If an event cannot be appended, the rebuild
-- starts again and finds the earlier events in the stream.
--
-- KEYS  epoch marker, order stream
-- ARGV  `building:<epoch>`, coupon id, then pairs of field and value as the claims hash has them
--
-- Reply
--   CODE done         0
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  the stream is absent; nothing was written

--@include lib/codes
--@include lib/marker
--@include lib/event

if is_fenced(ARGV[1]) then return FENCED end
if not has_stream() then return INCONSISTENT end
for a = 3, #ARGV, 2 do
  send_event(redis.call, KEYS[2], ARGV[2], ARGV[a], ARGV[a + 1])
end
return DONE
