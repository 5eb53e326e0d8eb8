#!lua flags=no-writes
-- Reads one page of the pending entries list, and the server's clock, by which Redis counts the idle times.
--
-- KEYS  order stream
-- ARGV  consumer group, lowest id to read (exclusive with a leading `(`), most ids to read
--
-- Reply: this server's clock in ms since 1970, then for each entry: id, consumer, idle time in ms, deliveries

local time = redis.call('TIME')
return { time[1] * 1000 + math.floor(time[2] / 1000), redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], '+', ARGV[3]) }
