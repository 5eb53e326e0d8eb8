#!lua flags=allow-oom
-- Sets a coupon to Postgres's definition and its stock to what is left beside the claims, if these are as
-- many as were decided: claims deleted since would be taken for free units.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash
-- ARGV  `building:<epoch>`, claims decided, total, then the other fields as name, value, …
--
-- Reply
--   CODE done   0
--   CODE fenced 1  the marker is another one or the stream is gone; nothing was written
--   CODE changed 2 the claims hash holds another number of claims; nothing was written

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 1 end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return 1 end
local held = redis.call('HLEN', KEYS[4])
if held ~= tonumber(ARGV[2]) then return 2 end
-- In one write: there is none that could fail after it.
redis.call('HSET', KEYS[3], 'total', ARGV[3], 'stock', ARGV[3] - held, unpack(ARGV, 4))
return 0
