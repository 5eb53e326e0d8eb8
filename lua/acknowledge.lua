#!lua flags=allow-oom
-- Acknowledges entries whose orders are recorded or rejected in Postgres, and records the durable WAL position of
-- Postgres: if Postgres is later behind this position, it has lost commits. Positions are as in record_wal_position.
--
-- KEYS  epoch marker, order stream, position, tally
-- ARGV  `ready:<epoch>`, position, consumer group, ids of entries…
--
-- Reply: { code, entries that were pending }
--   CODE done   0
--   CODE fenced 1  the marker is another one; nothing was written

--@include lib/codes
--@include lib/marker
--@include lib/may

if is_fenced(ARGV[1]) then return { FENCED } end
local recorded = redis.call('GET', KEYS[3])
local counted = tonumber(redis.call('HGET', KEYS[4], 'acknowledged') or 0) or 0
if not (may('SET', KEYS[3], ARGV[2]) and may('HSET', KEYS[4], 'acknowledged', counted)) then
  return redis.error_reply('NOPERM acknowledge: this user may not record an acknowledgement (SET, HSET)')
end
-- The only write that can still fail comes first.
local acknowledged = redis.call('XACK', KEYS[2], unpack(ARGV, 3))
if not recorded or recorded < ARGV[2] then redis.call('SET', KEYS[3], ARGV[2]) end
if acknowledged > 0 then redis.call('HSET', KEYS[4], 'acknowledged', counted + acknowledged) end
return { DONE, acknowledged }
