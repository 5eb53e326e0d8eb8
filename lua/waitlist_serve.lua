#!lua flags=allow-oom
-- Gives units in stock to the first users in a coupon's waiting list: after a restock, after a pause, and after a rebuild.
-- A unit that comes back is given away by release.lua.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash, waiting list, orders of the waiting list
-- ARGV  `ready:<epoch>`, coupon id, the most units to give
--
-- Reply: { code, units given, users left in line whom a further call can serve, order that got each unit… }
--   CODE done         0
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  stream or coupon is absent, stock + claims is not the total, or a user in line has no order;
--                        nothing was written
-- If the stream can take no more entries, the rest of the units stays in stock and no further call can serve. A key of a
-- wrong type and a user who may not run a command of this script raise an error before the first write.

--@include lib/codes
--@include lib/marker
--@include lib/sum
--@include lib/slots
--@include lib/may
--@include lib/event
--@include lib/line
--@include lib/serve

if is_fenced(ARGV[1]) then return { FENCED } end
if not line_is_whole() then return { INCONSISTENT } end
if redis.call('ZCARD', KEYS[5]) == 0 then return { DONE, 0, 0 } end
if not has_stream() then return { INCONSISTENT } end
local hash = redis.call('HMGET', KEYS[3], 'stock', 'total', 'waitlist', 'paused', 'ends_at_ms', 'per_user_limit')
local stock = whole(hash[1])
if not adds_up(stock, redis.call('HLEN', KEYS[4]), whole(hash[2])) then return { INCONSISTENT } end
if stock <= 0 or hash[3] ~= '1' or not serves_line(hash[4], hash[5]) then return { DONE, 0, 0 } end
local units = math.min(stock, tonumber(ARGV[3]))
local first, refusal = first_in_line(units)
if refusal then return refusal end
local orders, is_full = serve_line(ARGV[2], limit_of(hash[6]), first, units)
local left = is_full and 0 or math.min(stock - #orders, redis.call('ZCARD', KEYS[5]))
return { DONE, #orders, left, unpack(orders) }
