#!lua
-- Takes free units of a share for a move to another partition: they leave `stock` and `total` at once, so that no claim gets
-- them, and a note says for which version of the coupon. The move is then committed in Postgres; the publication of that
-- version clears the note. A take that is asked again answers the note.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash
-- ARGV  `ready:<epoch>`, the version that the share must have, units wanted
--
-- Reply: { code, units taken }
--   CODE done          0
--   CODE fenced        1  the marker is another one; nothing was written
--   CODE inconsistent  2  stream or coupon is absent, or stock + claims is not the total; nothing was written
--   CODE other_version 10 the share has another version; nothing was written

--@include lib/codes
--@include lib/marker
--@include lib/sum

if is_fenced(ARGV[1]) then return { FENCED, 0 } end
if not has_stream() then return { INCONSISTENT, 0 } end
local hash = redis.call('HMGET', KEYS[3], 'stock', 'total', 'version', 'taken', 'taken_for')
local stock, total = whole(hash[1]), whole(hash[2])
if not adds_up(stock, redis.call('HLEN', KEYS[4]), total) then return { INCONSISTENT, 0 } end
local version = tonumber(ARGV[2])
if whole(hash[3]) ~= version then return { OTHER_VERSION, 0 } end
if whole(hash[5]) == version + 1 then return { DONE, whole(hash[4]) or 0 } end

local units = math.min(tonumber(ARGV[3]), stock)
if units <= 0 then return { DONE, 0 } end
-- A single write: a script with two writes could fail between them.
redis.call('HSET', KEYS[3], 'stock', stock - units, 'total', total - units, 'taken', units, 'taken_for', version + 1)
return { DONE, units }
