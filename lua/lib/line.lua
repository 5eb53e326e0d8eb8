-- The waiting list of a coupon: a sorted set of the users in the order of joining, and a hash with the order that each of
-- them gets, in the form of a value of the claims hash (`<order>` or `<order> <key>`). The keys of the scripts: epoch
-- marker, order stream, coupon hash, claims hash, waiting list, orders of the waiting list.

local function order_of(value) return string.match(value, '^[^ ]*') end
local function key_of(value) return string.match(value, ' (.*)$') end

-- Whether each user in line has an order, and each order a user: another program may have deleted one of the keys.
local function line_is_whole() return redis.call('ZCARD', KEYS[5]) == redis.call('HLEN', KEYS[6]) end

-- The field of the claims hash for one more unit of the user, or nil and the value of a held unit: one with the same
-- key; where the limit is 1, any.
local function free_field(user, limit, value)
  local fields = {}
  for slot = 1, limit do fields[slot] = slot_field(user, slot) end
  local key = key_of(value)
  local free
  for slot, held in ipairs(redis.call('HMGET', KEYS[4], unpack(fields))) do
    if not held then
      free = free or fields[slot]
    elseif limit == 1 or (key and key_of(held) == key) then
      return nil, held
    end
  end
  return free
end
