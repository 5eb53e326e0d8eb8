#!lua flags=allow-oom
-- Takes over pending entries that stayed with their consumers for too long. One that somebody has deleted stays
-- in the pending list: XAUTOCLAIM would forget it, and whoever it tells may die before anything comes of it.
--
-- KEYS  order stream
-- ARGV  consumer group, consumer, idle time in ms from which on an entry is taken, lowest id to look at
--       (exclusive with a leading `(`), most ids to look at
--
-- Reply: the last id looked at, empty where there was none; the ids whose entries are gone; the entries taken

local last, idle, gone, taken = '', {}, {}, {}
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[4], '+', ARGV[5])) do
  last = pending[1]
  if pending[3] >= tonumber(ARGV[3]) then
    local is_there = #redis.call('XRANGE', KEYS[1], last, last) > 0
    table.insert(is_there and idle or gone, last)
  end
end
if #idle > 0 then taken = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], unpack(idle)) end
return { last, gone, taken }
