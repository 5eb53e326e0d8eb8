#!lua flags=allow-oom
-- Acknowledges entries whose orders were made good in another way, and counts them as acknowledge does.
--
-- KEYS  order stream, tally
-- ARGV  consumer group, ids of entries…
--
-- Reply: entries that were pending

local counted = tonumber(redis.call('HGET', KEYS[2], 'acknowledged') or 0) or 0
-- Absent where Redis cannot tell what a user may do: then he may.
local may = redis.acl_check_cmd or function() return true end
if not may('HSET', KEYS[2], 'acknowledged', counted) then
  return redis.error_reply('NOPERM forget: this user may not count an acknowledgement (HSET)')
end
local acknowledged = redis.call('XACK', KEYS[1], unpack(ARGV))
if acknowledged > 0 then redis.call('HSET', KEYS[2], 'acknowledged', counted + acknowledged) end
return acknowledged
