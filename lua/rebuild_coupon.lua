#!lua flags=allow-oom
-- Sets a coupon to Postgres's definition and its stock to what is left beside the claims.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash
-- ARGV  `building:<epoch>`, total, then the other fields as name, value, …
--
-- Reply
--   CODE done   0
--   CODE fenced 1  the marker is another one or the stream is gone; nothing was written

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 1 end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return 1 end
redis.call('HSET', KEYS[3], 'total', ARGV[2], 'stock', ARGV[2] - redis.call('HLEN', KEYS[4]))
for a = 3, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[a], ARGV[a + 1]) end
return 0
