#!lua flags=allow-oom
-- Notes how far Postgres was seen to have made its WAL durable, so that an older copy put in its place
-- shows. Positions are written with all sixteen digits and so compare as text.
--
-- KEYS  epoch marker, position
-- ARGV  `ready:<epoch>`, position such as `00000000/01A2B3C8`
--
-- Reply
--   CODE noted  0  also where a higher one was noted before
--   CODE fenced 1  the marker is another one; nothing was written

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 1 end
local noted = redis.call('GET', KEYS[2])
if not noted or noted < ARGV[2] then redis.call('SET', KEYS[2], ARGV[2]) end
return 0
