#!lua
-- Looks whether stock + claims = total holds for each of some coupons, all at one moment.
--
-- KEYS  coupon hash and claims hash by turns
-- ARGV  none
--
-- Reply: the number of the first coupon that does not add up, 0 where all do. A key of a wrong type
-- raises WRONGTYPE.

for i = 1, #KEYS / 2 do
  local hash = redis.call('HMGET', KEYS[2 * i - 1], 'stock', 'total')
  local stock, total = tonumber(hash[1] or 'x'), tonumber(hash[2] or 'x')
  if not stock or not total or stock + redis.call('HLEN', KEYS[2 * i]) ~= total then return i end
end
return 0
