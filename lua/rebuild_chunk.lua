#!lua flags=allow-oom
-- Applies some of a rebuild's differences to one claims hash and moves the stock with every field, so
-- that a sum that held goes on holding if the rebuild dies after any chunk. Never makes the coupon hash.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash
-- ARGV  `building:<epoch>`, number of fields to delete, these, then pairs of field and value to set;
--       no more than Lua can unpack: 7,000
--
-- Reply
--   CODE done   0
--   CODE fenced 1  the marker is another one or the stream is gone; nothing was written

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 1 end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return 1 end

-- A whole number in its one spelling, or nil: HINCRBY would refuse any other after the first write.
local function whole(text)
  return text and #text <= 15 and (text == '0' or text:find('^-?[1-9]%d*$')) and tonumber(text) or nil
end

local stock = whole(redis.call('HGET', KEYS[3], 'stock'))
-- Absent where Redis cannot tell what a user may do: then he may.
local may = redis.acl_check_cmd or function() return true end
if not (may('HDEL', KEYS[4], 'f') and may('HSET', KEYS[4], 'f', 'v') and may('HINCRBY', KEYS[3], 'stock', '1')) then
  return redis.error_reply('NOPERM rebuild_chunk: this user may not write a coupon (HDEL, HSET, HINCRBY)')
end
local set = 3 + tonumber(ARGV[2])
local moved = 0
if set > 3 then moved = redis.call('HDEL', KEYS[4], unpack(ARGV, 3, set - 1)) end
if #ARGV >= set then moved = moved - redis.call('HSET', KEYS[4], unpack(ARGV, set)) end
if stock then redis.call('HINCRBY', KEYS[3], 'stock', moved) end
return 0
