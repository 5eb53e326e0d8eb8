#!lua
-- Sends lost order events again: events of claims that have neither an entry nor a row. It sends an event only if
-- the claims hash still has this value, so a unit that was released since then stays released. The events do not depend
-- on each other: where one cannot be appended, those before it are sent, and a later comparison finds the rest.
--
-- KEYS  epoch marker, order stream, claims hash
-- ARGV  `ready:<epoch>`, coupon id, then pairs of field and value as the claims hash has them
--
-- Reply: { code, events appended }
--   CODE done         0
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  the stream is absent; nothing was written

--@include lib/codes
--@include lib/marker
--@include lib/event

if is_fenced(ARGV[1]) then return { FENCED } end
if not has_stream() then return { INCONSISTENT } end
local appended = 0
for a = 3, #ARGV, 2 do
  if redis.call('HGET', KEYS[3], ARGV[a]) == ARGV[a + 1] then
    send_event(redis.call, KEYS[2], ARGV[2], ARGV[a], ARGV[a + 1])
    appended = appended + 1
  end
end
return { DONE, appended }
