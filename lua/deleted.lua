#!lua flags=no-writes
-- Looks for pending entries that somebody deleted or trimmed: at one and the same moment the group still has
-- them to acknowledge and the stream has them no more.
--
-- KEYS  order stream
-- ARGV  group, lowest id to look at (exclusive with a leading `(`), most ids to look at
--
-- Reply: the last id looked at, empty where there was none, then the ids whose entries are gone

local last, gone = '', {}
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], '+', ARGV[3])) do
  last = pending[1]
  if #redis.call('XRANGE', KEYS[1], last, last) == 0 then table.insert(gone, last) end
end
table.insert(gone, 1, last)
return gone
