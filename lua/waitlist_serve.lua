#!lua flags=allow-oom
-- Gives units in stock to the first users in a coupon's waiting list: after a restock, after a pause, and after a rebuild.
-- A unit that comes back is given away by release.lua.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash, waiting list, orders of the waiting list
-- ARGV  `ready:<epoch>`, coupon id, the most units to give
--
-- Reply: { code, units given, users left in line who can be served now }
--   CODE done         0
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  stream or coupon is absent, stock + claims is not the total, or a user in line has no order;
--                        nothing was written
-- A key of a wrong type and a user who may not run a command of this script raise an error before the first write.

--@include lib/codes
--@include lib/marker
--@include lib/sum
--@include lib/slots
--@include lib/may
--@include lib/event
--@include lib/line

if is_fenced(ARGV[1]) then return { FENCED } end
if not line_is_whole(KEYS[5], KEYS[6]) then return { INCONSISTENT } end
if redis.call('ZCARD', KEYS[5]) == 0 then return { DONE, 0, 0 } end
if not has_stream() then return { INCONSISTENT } end
local hash = redis.call('HMGET', KEYS[3], 'stock', 'total', 'waitlist', 'paused', 'ends_at_ms', 'per_user_limit')
local stock = whole(hash[1])
if not adds_up(stock, redis.call('HLEN', KEYS[4]), whole(hash[2])) then return { INCONSISTENT } end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if stock <= 0 or hash[3] ~= '1' or not serves_line(hash[4], hash[5], now_ms) then return { DONE, 0, 0 } end
local coupon = {
  id = ARGV[2],
  key = KEYS[3],
  claims_key = KEYS[4],
  line_key = KEYS[5],
  orders_key = KEYS[6],
  limit = limit_of(hash[6]),
}
if not may_serve(coupon) then
  return redis.error_reply('NOPERM waitlist_serve: this user may not serve a waiting list (XADD, HSET, ZREM, HDEL)')
end
local served = serve_line(coupon, math.min(stock, tonumber(ARGV[3])))
return { DONE, served, math.min(stock - served, redis.call('ZCARD', KEYS[5])) }
