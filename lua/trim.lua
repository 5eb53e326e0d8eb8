#!lua flags=allow-oom
-- Trims the order stream below the lowest entry that some group has not acknowledged, and keeps a tail
-- of recent entries for people with redis-cli.
--
-- KEYS  epoch marker, order stream
-- ARGV  `ready:<epoch>`, entries of the tail, our group, lowest id to be kept for other groups
--
-- Reply: entries removed, or -1 where the marker is another one or the stream is gone

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return -1 end
local tail = tonumber(ARGV[2])
if redis.call('XLEN', KEYS[2]) <= tail then return 0 end

local function before(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)%-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)%-(%d+)$')
  if tonumber(a_ms) ~= tonumber(b_ms) then return tonumber(a_ms) < tonumber(b_ms) end
  return tonumber(a_seq) < tonumber(b_seq)
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
return redis.call('XTRIM', KEYS[2], 'MINID', '~', floor)
