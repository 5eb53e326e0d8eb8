#!lua flags=allow-oom
-- Acknowledges entries whose orders have ended in Postgres, and notes with it how far Postgres's WAL was seen to
-- be durable: what is acknowledged here and missing there was lost by Postgres. Positions as in note_lsn.
--
-- KEYS  epoch marker, order stream, position
-- ARGV  `ready:<epoch>`, position, consumer group, ids of entries…
--
-- Reply: entries that were pending, or -1 where the marker is another one: nothing was written

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local noted = redis.call('GET', KEYS[3])
if not noted or noted < ARGV[2] then redis.call('SET', KEYS[3], ARGV[2]) end
return redis.call('XACK', KEYS[2], unpack(ARGV, 3))
