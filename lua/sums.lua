#!lua
-- Checks whether stock + claims = total holds for each coupon, all at one moment. Writes nothing.
--
-- KEYS  coupon hash and claims hash in turn
-- ARGV  none
--
-- Reply: the number of the first coupon whose sum does not hold, 0 if all hold. A key of a wrong type raises WRONGTYPE.

--@include lib/sum

for i = 1, #KEYS / 2 do
  local hash = redis.call('HMGET', KEYS[2 * i - 1], 'stock', 'total')
  if not adds_up(whole(hash[1]), redis.call('HLEN', KEYS[2 * i]), whole(hash[2])) then return i end
end
return 0
