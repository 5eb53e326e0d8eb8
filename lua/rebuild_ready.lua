#!lua flags=allow-oom
-- Ends a rebuild: the claim script accepts claims again.
--
-- KEYS  epoch marker, order stream, Postgres's WAL position
-- ARGV  epoch, WAL position of the Postgres from which this rebuild read
--
-- Reply
--   CODE done         0
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  the stream is absent; nothing was written

--@include lib/codes
--@include lib/marker
--@include lib/may

if is_fenced('building:' .. ARGV[1]) then return FENCED end
if not has_stream() then return INCONSISTENT end
if not may('SET', KEYS[1], 'ready') then
  return redis.error_reply('NOPERM rebuild_ready: this user may not write the marker (SET)')
end
redis.call('SET', KEYS[3], ARGV[2])
redis.call('SET', KEYS[1], 'ready:' .. ARGV[1])
return DONE
