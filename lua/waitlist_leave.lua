#!lua flags=allow-oom
-- Takes a user out of a coupon's waiting list.
--
-- KEYS  epoch marker, waiting list, orders of the waiting list
-- ARGV  `ready:<epoch>`, user
--
-- Reply: { code, order that the user would have got }
--   CODE done     0
--   CODE fenced   1  the marker is another one; nothing was written
--   CODE not_held 6  the user was not in line

--@include lib/codes
--@include lib/marker
--@include lib/may

if is_fenced(ARGV[1]) then return { FENCED } end
local value = redis.call('HGET', KEYS[3], ARGV[2])
if not redis.call('ZSCORE', KEYS[2], ARGV[2]) then return { NOT_HELD } end
if not (may('ZREM', KEYS[2], 'm') and may('HDEL', KEYS[3], 'f')) then
  return redis.error_reply('NOPERM waitlist_leave: this user may not write a waiting list (ZREM, HDEL)')
end
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[3], ARGV[2])
return { DONE, string.match(value or '', '^[^ ]*') }
