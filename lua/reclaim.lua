#!lua flags=allow-oom
-- Takes over pending entries that the caller has found to be too old, by a clock that never goes back. Leaves an entry
-- that was delivered again since then. Leaves a deleted entry in the pending entries list: XAUTOCLAIM would remove it,
-- and its event would be lost if the caller died.
--
-- KEYS  order stream
-- ARGV  consumer group, consumer, then for each entry: id, the consumer that holds it, deliveries
--
-- Reply: the ids whose entries are deleted; the entries taken over

local due, deleted, taken = {}, {}, {}
for a = 3, #ARGV, 3 do
  local id = ARGV[a]
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  if pending and pending[2] == ARGV[a + 1] and pending[4] == tonumber(ARGV[a + 2]) then
    local is_there = #redis.call('XRANGE', KEYS[1], id, id) > 0
    table.insert(is_there and due or deleted, id)
  end
end
if #due > 0 then taken = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(due)) end
return { deleted, taken }
