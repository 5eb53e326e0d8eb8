#!lua
-- Appends the order events of claims that have neither entry nor row. Each only while the claims hash still
-- holds that order: what was released since stays released. Each event is whole in itself: where one cannot be
-- appended, those before it are sent, and the rest is found again.
--
-- KEYS  epoch marker, order stream, claims hash
-- ARGV  `ready:<epoch>`, coupon id, then pairs of user and order
--
-- Reply: events appended, or -1 where the marker is another one or the stream is gone

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return -1 end
local added = 0
for a = 3, #ARGV, 2 do
  if redis.call('HGET', KEYS[3], ARGV[a]) == ARGV[a + 1] then
    redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', 'order', ARGV[a + 1], 'coupon', ARGV[2], 'user', ARGV[a])
    added = added + 1
  end
end
return added
