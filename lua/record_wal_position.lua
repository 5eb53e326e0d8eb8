#!lua flags=allow-oom
-- Records the durable WAL position of Postgres, so that an older copy of Postgres is detected later. Positions have all
-- sixteen digits and therefore compare as text.
--
-- KEYS  epoch marker, position
-- ARGV  `ready:<epoch>`, position such as `00000000/01A2B3C8`
--
-- Reply
--   CODE done   0  also if a higher position was recorded before
--   CODE fenced 1  the marker is another one; nothing was written

--@include lib/codes
--@include lib/marker

if is_fenced(ARGV[1]) then return FENCED end
local recorded = redis.call('GET', KEYS[2])
if not recorded or recorded < ARGV[2] then redis.call('SET', KEYS[2], ARGV[2]) end
return DONE
