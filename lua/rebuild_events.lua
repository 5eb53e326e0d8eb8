#!lua flags=allow-oom
-- Appends the order events of kept claims that have neither row nor entry. Each event is whole in itself: where one
-- cannot be appended, the rebuild starts over and finds those before it in the stream.
--
-- KEYS  epoch marker, order stream
-- ARGV  `building:<epoch>`, coupon id, then pairs of user and order
--
-- Reply
--   CODE done   0
--   CODE fenced 1  the marker is another one or the stream is gone; nothing was written

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 1 end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return 1 end
for a = 3, #ARGV, 2 do
  redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', 'order', ARGV[a + 1], 'coupon', ARGV[2], 'user', ARGV[a])
end
return 0
