#!lua flags=allow-oom
-- Writes a part of a coupon's waiting list during a rebuild, after the claims hash is decided. The first part replaces
-- the list. Leaves out users who hold the order already and users who may hold no further unit.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash, waiting list, orders of the waiting list
-- ARGV  `building:<epoch>`, number of users in the earlier parts (0: the first part), then for each user: user, value
--       (`<order>` or `<order> <key>`); at most 7,000 values: Lua can unpack no more
--
-- Reply
--   CODE done   0
--   CODE fenced 1  the marker is another one; nothing was written

--@include lib/codes
--@include lib/marker
--@include lib/sum
--@include lib/slots
--@include lib/may
--@include lib/line

if is_fenced(ARGV[1]) then return FENCED end
local limit = limit_of(redis.call('HGET', KEYS[3], 'per_user_limit'))
local before = tonumber(ARGV[2])

-- Whether a unit of the user has this order.
local function is_served(user, order)
  for slot = 1, limit do
    local held = redis.call('HGET', KEYS[4], slot_field(user, slot))
    if held and order_of(held) == order then return true end
  end
  return false
end

local places, values = {}, {}
for arg = 3, #ARGV, 2 do
  local user, value = ARGV[arg], ARGV[arg + 1]
  if free_field(user, limit, value) and not is_served(user, order_of(value)) then
    places[#places + 1], places[#places + 2] = before + (arg - 1) / 2, user
    values[#values + 1], values[#values + 2] = user, value
  end
end
for _, command in ipairs({
  { 'DEL', KEYS[5] }, { 'DEL', KEYS[6] }, { 'ZADD', KEYS[5], '0', 'm' }, { 'HSET', KEYS[6], 'f', 'v' },
}) do
  if not may(unpack(command)) then
    return redis.error_reply('NOPERM rebuild_line: this user may not run ' .. command[1])
  end
end
-- In a later part the types of the keys are checked before the first write.
if before > 0 then
  redis.call('ZCARD', KEYS[5])
  redis.call('HLEN', KEYS[6])
else
  redis.call('DEL', KEYS[5], KEYS[6])
end
if #places > 0 then
  redis.call('ZADD', KEYS[5], unpack(places))
  redis.call('HSET', KEYS[6], unpack(values))
end
return DONE
