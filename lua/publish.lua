#!lua
-- Brings a coupon's definition into force. Changes the stock by the difference of the totals, so that no claim is lost.
-- Replaces only a lower version, so that the script may be sent again.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash
-- ARGV  `ready:<epoch>`, 1 if the sender has just inserted the coupon in Postgres (only then the script may create the
--       hash) else 0, version, total, then the other fields as name, value, …
--
-- Reply
--   CODE done         0
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  stream or coupon is absent, or stock + claims is not the total; nothing was written
--   CODE current      5  Redis has this version or a higher one already; nothing was written

--@include lib/codes
--@include lib/marker
--@include lib/sum

if is_fenced(ARGV[1]) then return FENCED end
if not has_stream() then return INCONSISTENT end

local version, total = tonumber(ARGV[3]), tonumber(ARGV[4])
local hash = redis.call('HMGET', KEYS[3], 'stock', 'total', 'version')
local held = redis.call('HLEN', KEYS[4])
local old_stock, old_total = whole(hash[1]), whole(hash[2])
if redis.call('EXISTS', KEYS[3]) == 0 then
  if ARGV[2] ~= '1' or held > 0 then return INCONSISTENT end
  old_stock, old_total = 0, 0
elseif not adds_up(old_stock, held, old_total) then
  return INCONSISTENT
elseif (whole(hash[3]) or 0) >= version then
  return CURRENT
end

-- A single write: a script with two writes could fail between them.
local stock = old_stock + total - old_total
redis.call('HSET', KEYS[3], 'stock', stock, 'version', ARGV[3], 'total', ARGV[4], unpack(ARGV, 5))
return DONE
