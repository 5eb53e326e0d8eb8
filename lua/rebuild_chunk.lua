#!lua flags=allow-oom
-- Applies a part of a rebuild's differences to one claims hash, and changes the stock with every field: if the coupon's
-- sum holds, it still holds when the rebuild dies after any chunk. Never creates the coupon hash.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash
-- ARGV  `building:<epoch>`, number of fields to delete, these fields, then pairs of field and value to set;
--       at most 7,000 values: Lua can unpack no more
--
-- Reply
--   CODE done         0
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  the stream is absent; nothing was written

--@include lib/codes
--@include lib/marker
--@include lib/sum
--@include lib/may

if is_fenced(ARGV[1]) then return FENCED end
if not has_stream() then return INCONSISTENT end
local stock = whole(redis.call('HGET', KEYS[3], 'stock'))
if not (may('HDEL', KEYS[4], 'f') and may('HSET', KEYS[4], 'f', 'v') and may('HINCRBY', KEYS[3], 'stock', '1')) then
  return redis.error_reply('NOPERM rebuild_chunk: this user may not write a coupon (HDEL, HSET, HINCRBY)')
end
local set = 3 + tonumber(ARGV[2])
local moved = 0
if set > 3 then moved = redis.call('HDEL', KEYS[4], unpack(ARGV, 3, set - 1)) end
if #ARGV >= set then moved = moved - redis.call('HSET', KEYS[4], unpack(ARGV, set)) end
if stock then redis.call('HINCRBY', KEYS[3], 'stock', moved) end
return DONE
