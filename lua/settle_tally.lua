#!lua flags=allow-oom
-- Records the tally whose missed entries were sent again, so that a probe does not report them again.
--
-- KEYS  epoch marker, tally
-- ARGV  the marker, tally as probe returned it
--
-- Reply
--   CODE done   0
--   CODE fenced 1  the marker is another one; nothing was written

--@include lib/codes
--@include lib/marker

if is_fenced(ARGV[1]) then return FENCED end
redis.call('HSET', KEYS[2], 'settled', ARGV[2])
return DONE
