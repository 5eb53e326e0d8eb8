#!lua flags=allow-oom
-- Returns the unit of an order that has ended. Only the claims hash decides. The order id is the idempotence key: the
-- script returns one unit, however often it runs. Also runs when the memory is full.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash
-- ARGV  `ready:<epoch>`, field of the claims hash (the user; `<user>\x1f<slot>` from slot 2), order
--
-- Reply
--   CODE done         0
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  stream or coupon is absent, or stock + claims is not the total; nothing was written
--   CODE not_held     6  the field is absent or names another order: nothing to return

--@include lib/codes
--@include lib/marker
--@include lib/sum
--@include lib/may

if is_fenced(ARGV[1]) then return FENCED end
if not has_stream() then return INCONSISTENT end
local hash = redis.call('HMGET', KEYS[3], 'stock', 'total')
if not adds_up(whole(hash[1]), redis.call('HLEN', KEYS[4]), whole(hash[2])) then return INCONSISTENT end

-- The value is `<order>` or `<order> <key>`.
local held = redis.call('HGET', KEYS[4], ARGV[2])
if not held or string.match(held, '^[^ ]*') ~= ARGV[3] then return NOT_HELD end
if not may('HINCRBY', KEYS[3], 'stock', '1') then
  return redis.error_reply('NOPERM release: this user may not move a stock (HINCRBY)')
end
redis.call('HDEL', KEYS[4], ARGV[2])
redis.call('HINCRBY', KEYS[3], 'stock', 1)
return DONE
