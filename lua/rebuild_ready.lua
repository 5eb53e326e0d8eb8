#!lua flags=allow-oom
-- Ends a rebuild: claims are accepted again.
--
-- KEYS  epoch marker, order stream, Postgres's WAL position
-- ARGV  epoch, the position of the Postgres that this rebuild agreed with
--
-- Reply
--   CODE ready  0
--   CODE fenced 1  the marker is another one or the stream is gone; nothing was written

if redis.call('GET', KEYS[1]) ~= 'building:' .. ARGV[1] then return 1 end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return 1 end
-- Absent where Redis cannot tell what a user may do: then he may.
local may = redis.acl_check_cmd or function() return true end
if not may('SET', KEYS[1], 'ready') then
  return redis.error_reply('NOPERM rebuild_ready: this user may not write the marker (SET)')
end
redis.call('SET', KEYS[3], ARGV[2])
redis.call('SET', KEYS[1], 'ready:' .. ARGV[1])
return 0
