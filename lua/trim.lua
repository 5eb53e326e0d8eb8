#!lua flags=allow-oom
-- Trims the order stream below the lowest entry that a group has not acknowledged. Keeps some recent entries, for an
-- operator with redis-cli.
--
-- KEYS  epoch marker, order stream, tally
-- ARGV  `ready:<epoch>`, entries of the tail, our group, lowest id to be kept for other groups
--
-- Reply: { code, entries removed }
--   CODE done         0
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  the stream or our group is absent; nothing was written

--@include lib/codes
--@include lib/marker
--@include lib/fields
--@include lib/entry_id
--@include lib/may

if is_fenced(ARGV[1]) then return { FENCED } end
if not has_stream() then return { INCONSISTENT } end
local tail = tonumber(ARGV[2])
if redis.call('XLEN', KEYS[2]) <= tail then return { DONE, 0 } end

local recent = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', tail)
local floor = recent[#recent][1]
local has_group = false
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
  local group = by_name(info)
  local ours = group['name'] == ARGV[3]
  has_group = has_group or ours
  -- Every entry up to last-delivered-id was delivered; it is acknowledged if it is not pending.
  local lowest = group['last-delivered-id']
  if group['pending'] > 0 then
    local first = redis.call('XPENDING', KEYS[2], group['name'])[2]
    if first and is_before(first, lowest) then lowest = first end
  end
  if not ours and is_before(lowest, ARGV[4]) then lowest = ARGV[4] end
  if is_before(lowest, floor) then floor = lowest end
end
if not has_group then return { INCONSISTENT } end
local counted = tonumber(redis.call('HGET', KEYS[3], 'trimmed') or 0) or 0
if not may('HSET', KEYS[3], 'trimmed', counted) then
  return redis.error_reply('NOPERM trim: this user may not count trimmed entries (HSET)')
end
local trimmed = redis.call('XTRIM', KEYS[2], 'MINID', '~', floor)
if trimmed > 0 then redis.call('HSET', KEYS[3], 'trimmed', counted + trimmed) end
return { DONE, trimmed }
