#!lua flags=allow-oom
-- Acknowledges pending entries that were deleted or trimmed, after their lost events were sent again. Adds them to the
-- tally, as acknowledge.lua does.
--
-- KEYS  order stream, tally
-- ARGV  consumer group, ids of entries…
--
-- Reply: entries that were pending

--@include lib/may

local counted = tonumber(redis.call('HGET', KEYS[2], 'acknowledged') or 0) or 0
if not may('HSET', KEYS[2], 'acknowledged', counted) then
  return redis.error_reply('NOPERM acknowledge_deleted: this user may not count an acknowledgement (HSET)')
end
local acknowledged = redis.call('XACK', KEYS[1], unpack(ARGV))
if acknowledged > 0 then redis.call('HSET', KEYS[2], 'acknowledged', counted + acknowledged) end
return acknowledged
