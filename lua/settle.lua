#!lua flags=allow-oom
-- Notes the tally whose differences were made good: the same ones are looked for no more.
--
-- KEYS  epoch marker, tally
-- ARGV  the marker, tally as look told it
--
-- Reply
--   CODE settled 0
--   CODE fenced  1  the marker is another one; nothing was written

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 1 end
redis.call('HSET', KEYS[2], 'settled', ARGV[2])
return 0
