#!lua
-- Brings a coupon's definition into force. Applied as a difference, so that claims beside it are kept,
-- and only over a lower version, so that it may be sent again.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash
-- ARGV  `ready:<epoch>`, 1 if the sender has just inserted the coupon in Postgres (only then may the
--       hash be made) else 0, version, total, then the other fields as name, value, …
--
-- Reply
--   CODE applied 0
--   CODE current 1  Redis has this version or a higher one already
--   CODE fenced  2  the marker is another one; nothing was written
--   CODE lost    3  stream or coupon is absent, or the sum does not hold; nothing was written

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 2 end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return 3 end

-- A whole number in its one spelling, or nil: no script counts with any other.
local function whole(text)
  return text and #text <= 15 and (text == '0' or text:find('^-?[1-9]%d*$')) and tonumber(text) or nil
end

local version, total = tonumber(ARGV[3]), tonumber(ARGV[4])
local hash = redis.call('HMGET', KEYS[3], 'stock', 'total', 'version')
local held = redis.call('HLEN', KEYS[4])
local old_stock, old_total = whole(hash[1]), whole(hash[2])
if redis.call('EXISTS', KEYS[3]) == 0 then
  if ARGV[2] ~= '1' or held > 0 then return 3 end
  old_stock, old_total = 0, 0
elseif not (old_stock and old_total and old_stock + held == old_total) then
  return 3
elseif (whole(hash[3]) or 0) >= version then
  return 1
end

-- In one write: there is none that could fail after it.
local stock = old_stock + total - old_total
redis.call('HSET', KEYS[3], 'stock', stock, 'version', ARGV[3], 'total', ARGV[4], unpack(ARGV, 5))
return 0
