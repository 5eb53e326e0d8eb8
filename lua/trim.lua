#!lua flags=allow-oom
-- Trims the order stream below the lowest entry that some group has not acknowledged, and keeps a tail
-- of recent entries for people with redis-cli.
--
-- KEYS  epoch marker, order stream, tally
-- ARGV  `ready:<epoch>`, entries of the tail, our group, lowest id to be kept for other groups
--
-- Reply: entries removed, or -1 where the marker is another one or the stream is gone

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return -1 end
local tail = tonumber(ARGV[2])
if redis.call('XLEN', KEYS[2]) <= tail then return 0 end

-- Digits as text: a number of Lua is a double, and 2^64 - 1 would be no larger than 2^64 - 2.
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
local function before(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)%-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)%-(%d+)$')
  if a_ms ~= b_ms then return less(a_ms, b_ms) end
  return less(a_seq, b_seq)
end

local recent = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', tail)
local floor = recent[#recent][1]
local has_group = false
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
  local group = {}
  for f = 1, #info, 2 do group[info[f]] = info[f + 1] end
  local ours = group['name'] == ARGV[3]
  has_group = has_group or ours
  -- Everything up to last-delivered-id was delivered; of that, what is pending is not acknowledged.
  local lowest = group['last-delivered-id']
  if group['pending'] > 0 then
    local first = redis.call('XPENDING', KEYS[2], group['name'])[2]
    if first and before(first, lowest) then lowest = first end
  end
  if not ours and before(lowest, ARGV[4]) then lowest = ARGV[4] end
  if before(lowest, floor) then floor = lowest end
end
if not has_group then return -1 end
local counted = tonumber(redis.call('HGET', KEYS[3], 'trimmed') or 0) or 0
-- Absent where Redis cannot tell what a user may do: then he may.
local may = redis.acl_check_cmd or function() return true end
if not may('HSET', KEYS[3], 'trimmed', counted) then
  return redis.error_reply('NOPERM trim: this user may not count trimmed entries (HSET)')
end
local trimmed = redis.call('XTRIM', KEYS[2], 'MINID', '~', floor)
if trimmed > 0 then redis.call('HSET', KEYS[3], 'trimmed', counted + trimmed) end
return trimmed
