-- The waiting list of a coupon: a sorted set of the users in the order of joining, and a hash with the order that each of
-- them gets, in the form of a value of the claims hash (`<order>` or `<order> <key>`).

-- Whether each user in line has an order, and each order a user: another program may have deleted one of the keys.
local function line_is_whole(line_key, orders_key)
  return redis.call('ZCARD', line_key) == redis.call('HLEN', orders_key)
end

-- The field of the claims hash for one more unit of the user, or nil and the value of a held unit: one with the same
-- key; without a key and where the limit is 1, any.
local function free_field(claims_key, user, limit, value)
  local fields = {}
  for slot = 1, limit do fields[slot] = slot_field(user, slot) end
  local key = string.match(value, ' (.*)$')
  local free
  for slot, held in ipairs(redis.call('HMGET', claims_key, unpack(fields))) do
    if not held then
      free = free or fields[slot]
    elseif limit == 1 or (key and string.match(held, ' (.*)$') == key) then
      return nil, held
    end
  end
  return free
end

-- Whether units may go to the users in line. A user may also be served before a new start of the sale.
local function serves_line(paused, ends_at_ms, now_ms)
  local ends_at = whole(ends_at_ms) or 0
  return paused ~= '1' and (ends_at == 0 or now_ms < ends_at)
end

local function may_serve(coupon)
  return may('XADD', KEYS[2], '*', 'f', 'v') and may('HSET', coupon.claims_key, 'f', 'v')
    and may('HINCRBY', coupon.key, 'stock', '1') and may('ZREM', coupon.line_key, 'm')
    and may('HDEL', coupon.orders_key, 'f')
end

-- Gives one unit each to the first users in line, at most `units`, and returns how many it gave. A user who may hold no
-- further unit leaves the line without one. The caller has checked the marker, the stream, the sum and the rights.
local function serve_line(coupon, units)
  local served = 0
  local users = redis.call('ZRANGE', coupon.line_key, 0, units - 1)
  if #users == 0 then return 0 end
  local values = redis.call('HMGET', coupon.orders_key, unpack(users))
  for n, user in ipairs(users) do
    local field = values[n] and free_field(coupon.claims_key, user, coupon.limit, values[n])
    if field then
      -- The only write that can fail comes first.
      local entry = send_event(redis.pcall, KEYS[2], coupon.id, field, values[n])
      if not entry or entry.err then break end
      redis.call('HSET', coupon.claims_key, field, values[n])
      redis.call('HINCRBY', coupon.key, 'stock', -1)
      served = served + 1
    end
    redis.call('ZREM', coupon.line_key, user)
    redis.call('HDEL', coupon.orders_key, user)
  end
  return served
end
