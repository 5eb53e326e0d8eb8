#!lua flags=allow-oom
-- Returns the unit of an order that has ended. The claims hash is the only arbiter and the order id
-- the idempotence key: however often it runs, one unit goes back. Runs when memory is full, too.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash
-- ARGV  `ready:<epoch>`, field of the claims hash (the user; `<user>\x1f<slot>` from slot 2), order
--
-- Reply
--   CODE released 0
--   CODE not_held 1  the field is absent or names another order: nothing to return
--   CODE fenced   2  the marker is another one; nothing was written
--   CODE lost     3  stream or coupon is absent, or the sum does not hold; nothing was written

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 2 end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return 3 end

-- A whole number in its one spelling, or nil: HINCRBY would refuse any other after the first write.
local function whole(text)
  return text and #text <= 15 and (text == '0' or text:find('^-?[1-9]%d*$')) and tonumber(text) or nil
end

local hash = redis.call('HMGET', KEYS[3], 'stock', 'total')
local stock, total = whole(hash[1]), whole(hash[2])
local units = redis.call('HLEN', KEYS[4])
if not (stock and total and stock + units == total) then return 3 end

-- Where the limit is above 1 the value is `<order> <key>`.
local held = redis.call('HGET', KEYS[4], ARGV[2])
if not held or string.match(held, '^[^ ]*') ~= ARGV[3] then return 1 end
-- Absent where Redis cannot tell what a user may do: then he may.
local may = redis.acl_check_cmd or function() return true end
if not may('HINCRBY', KEYS[3], 'stock', '1') then
  return redis.error_reply('NOPERM release: this user may not move a stock (HINCRBY)')
end
redis.call('HDEL', KEYS[4], ARGV[2])
redis.call('HINCRBY', KEYS[3], 'stock', 1)
return 0
