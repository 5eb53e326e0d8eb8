#!lua flags=no-writes
-- Finds pending entries that were deleted or trimmed: the pending entries list has the id, and at the same moment the
-- stream does not have the entry.
--
-- KEYS  order stream
-- ARGV  group, lowest id to check (exclusive with a leading `(`), most ids to check
--
-- Reply: the last id checked, empty if there is none, then the ids whose entries are deleted

local last, deleted = '', {}
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], '+', ARGV[3])) do
  last = pending[1]
  if #redis.call('XRANGE', KEYS[1], last, last) == 0 then table.insert(deleted, last) end
end
table.insert(deleted, 1, last)
return deleted
