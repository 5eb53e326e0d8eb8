#!lua flags=allow-oom
-- Acknowledges entries whose orders have ended in Postgres, and notes with it how far Postgres's WAL was seen to
-- be durable: what is acknowledged here and missing there was lost by Postgres. Positions as in note_lsn.
--
-- KEYS  epoch marker, order stream, position, tally
-- ARGV  `ready:<epoch>`, position, consumer group, ids of entries…
--
-- Reply: entries that were pending, or -1 where the marker is another one: nothing was written

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local noted = redis.call('GET', KEYS[3])
local counted = tonumber(redis.call('HGET', KEYS[4], 'acknowledged') or 0) or 0
-- Absent where Redis cannot tell what a user may do: then he may.
local may = redis.acl_check_cmd or function() return true end
if not (may('SET', KEYS[3], ARGV[2]) and may('HSET', KEYS[4], 'acknowledged', counted)) then
  return redis.error_reply('NOPERM acknowledge: this user may not note an acknowledgement (SET, HSET)')
end
-- The one write that can still fail comes first.
local acknowledged = redis.call('XACK', KEYS[2], unpack(ARGV, 3))
if not noted or noted < ARGV[2] then redis.call('SET', KEYS[3], ARGV[2]) end
if acknowledged > 0 then redis.call('HSET', KEYS[4], 'acknowledged', counted + acknowledged) end
return acknowledged
