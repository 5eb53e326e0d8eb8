-- Gives units to the first users in line. Needs `line.lua` and its keys.

-- Whether units may go to the users in line. A user may also be served before a new start of the sale.
local function serves_line(paused, ends_at_ms)
  local ends_at, time = whole(ends_at_ms) or 0, redis.call('TIME')
  return paused ~= '1' and (ends_at <= 0 or time[1] * 1000 + time[2] / 1000 < ends_at)
end

-- The first users in line and the values of their orders, at most `most`; nil and an error if Redis's user may not serve
-- them. A script calls this before its first write.
local function first_in_line(most)
  local users = redis.call('ZRANGE', KEYS[5], 0, most - 1)
  local values = redis.call('HMGET', KEYS[6], unpack(users))
  if may('XADD', KEYS[2], '*', 'f', 'v') and may('HSET', KEYS[4], 'f', 'v') and may('HINCRBY', KEYS[3], 'stock', '1')
    and may('ZREM', KEYS[5], 'm') and may('HDEL', KEYS[6], 'f') then
    return { users = users, values = values }
  end
  return nil, redis.error_reply('NOPERM this user may not serve a waiting list (XADD, HSET, HINCRBY, ZREM, HDEL)')
end

-- Gives one unit each to the first `units` users of `first`. A user who may hold no further unit leaves the line without
-- one. Returns the orders that got a unit, and whether an event could not be appended: then this user and those behind
-- stay in line. The caller has checked the marker, the stream and the sum.
local function serve_line(coupon, limit, first, units)
  local fields, gone, orders, is_refused = {}, {}, {}, false
  for n = 1, math.min(units, #first.users) do
    local user, value = first.users[n], first.values[n]
    local field = value and free_field(user, limit, value)
    if field then
      local entry = send_event(redis.pcall, KEYS[2], coupon, field, value)
      is_refused = not entry or entry.err ~= nil
      if is_refused then break end
      fields[#fields + 1] = field
      fields[#fields + 1] = value
      orders[#orders + 1] = order_of(value)
    end
    gone[#gone + 1] = user
  end
  -- The events are appended: these writes cannot fail.
  if #fields > 0 then
    redis.call('HSET', KEYS[4], unpack(fields))
    redis.call('HINCRBY', KEYS[3], 'stock', -#orders)
  end
  if #gone > 0 then
    redis.call('ZREM', KEYS[5], unpack(gone))
    redis.call('HDEL', KEYS[6], unpack(gone))
  end
  return orders, is_refused
end
