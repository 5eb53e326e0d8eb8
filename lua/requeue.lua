#!lua
-- Sends lost order events again: events of claims that have neither an entry nor a row. Sends an event only if the
-- claims hash still holds its order: a unit that was released since stays released. If an event cannot be appended, the
-- earlier ones are sent, and a later comparison finds the others.
--
-- KEYS  epoch marker, order stream, claims hash
-- ARGV  `ready:<epoch>`, coupon id, then pairs of user and order
--
-- Reply: { code, events appended }
--   CODE done         0
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  the stream is absent; nothing was written

--@include lib/codes
--@include lib/marker

if is_fenced(ARGV[1]) then return { FENCED } end
if not has_stream() then return { INCONSISTENT } end
local appended = 0
for a = 3, #ARGV, 2 do
  if redis.call('HGET', KEYS[3], ARGV[a]) == ARGV[a + 1] then
    redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', 'order', ARGV[a + 1], 'coupon', ARGV[2], 'user', ARGV[a])
    appended = appended + 1
  end
end
return { DONE, appended }
