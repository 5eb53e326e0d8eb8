#!lua
-- Claims one unit for each user of a batch: appends the order event, adds the user to the claims hash and takes one
-- unit from the stock. Does all three for a claim or none. A batch that is sent twice claims once: the second time each
-- user already holds the unit.
--
-- KEYS[1]           epoch marker
-- KEYS[2]           order stream
-- KEYS[2i+1], [2i+2] coupon hash and claims hash of the batch's i-th coupon
-- ARGV[1]           the marker under which claims are accepted, `ready:<epoch>`
-- ARGV[2]           deadline, ms since 1970 by this server's clock
-- then for each coupon:
--   coupon id, 1 if Postgres says it was published else 0, number of claims n, then n times: user, order
--
-- Reply: { code, now_ms, detail… }
--   CODE done         0  then an array with the order that the user holds already for each outcome held, and for each
--                        coupon: stock left, starts_at_ms (0 if none), a string of n outcomes
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  then the number of the coupon that does not add up, 0 for the stream; nothing was written
--   CODE late         3  the deadline has passed; nothing was written
--   CODE full         4  the stream can take no more entries: every claim whose event fitted is made, no other
--   OUTCOME accepted       0
--   OUTCOME held           1
--   OUTCOME unknown_coupon 2
--   OUTCOME ended          3
--   OUTCOME paused         4
--   OUTCOME not_started    5
--   OUTCOME sold_out       6
-- All checks come before the first write: a key of a wrong type, a batch above 3,000 claims (Lua unpacks at most 8,000
-- values) and a missing right of Redis's user raise an error before it. The first write is an event; after it is
-- appended, the other writes of its claim cannot fail.

--@include lib/codes
--@include lib/marker
--@include lib/sum
--@include lib/may

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

if is_fenced(ARGV[1]) then return { FENCED, now_ms } end
if now_ms > tonumber(ARGV[2]) then return { LATE, now_ms } end

local coupons = {}
local arg = 3
for i = 1, (#KEYS - 2) / 2 do
  local coupon_key, claims_key = KEYS[2 * i + 1], KEYS[2 * i + 2]
  local hash = redis.call('HMGET', coupon_key, 'stock', 'total', 'starts_at_ms', 'ends_at_ms', 'paused')
  local held = redis.call('HLEN', claims_key)
  local stock, total = whole(hash[1]), whole(hash[2])
  local absent = not hash[1] and not hash[2] and held == 0 and redis.call('EXISTS', coupon_key) == 0
  local unknown = absent and ARGV[arg + 1] == '0'
  if not unknown and not adds_up(stock, held, total) then
    if not has_stream() then return { INCONSISTENT, now_ms, 0 } end
    return { INCONSISTENT, now_ms, i }
  end
  coupons[i] = {
    claims_key = claims_key,
    unknown = unknown,
    stock = stock or 0,
    starts_at_ms = tonumber(hash[3] or 0) or 0,
    ends_at_ms = tonumber(hash[4] or 0) or 0,
    paused = hash[5] == '1',
  }
  arg = arg + 3 + 2 * ARGV[arg + 2]
end

local repeated = {}
local reply = { DONE, now_ms, repeated }
local accepts = false
arg = 3
for i, coupon in ipairs(coupons) do
  local claims = tonumber(ARGV[arg + 2])
  if claims > 3000 then return redis.error_reply('ERR claim: more than 3,000 claims of a coupon') end
  local users, orders = {}, {}
  for n = 1, claims do
    users[n], orders[n] = ARGV[arg + 1 + 2 * n], ARGV[arg + 2 + 2 * n]
  end
  coupon.id = ARGV[arg]
  arg = arg + 3 + 2 * claims
  local closed = (coupon.unknown and '2')
    or (coupon.ends_at_ms > 0 and now_ms >= coupon.ends_at_ms and '3')
    or (coupon.paused and '4')
    or (now_ms < coupon.starts_at_ms and '5')
  local held = coupon.unknown and {} or redis.call('HMGET', coupon.claims_key, unpack(users))
  -- The orders of this batch by user, and the new fields of the claims hash.
  local mine, fields = {}, {}
  local left = coupon.stock
  local codes = {}
  for n = 1, claims do
    local user = users[n]
    local order = held[n] or mine[user]
    if order then
      codes[n] = '1'
      repeated[#repeated + 1] = order
    elseif closed then
      codes[n] = closed
    elseif left <= 0 then
      codes[n] = '6'
    else
      codes[n] = '0'
      left = left - 1
      mine[user] = orders[n]
      fields[#fields + 1] = user
      fields[#fields + 1] = orders[n]
    end
  end
  local last = #reply
  reply[last + 1], reply[last + 2], reply[last + 3] = left, coupon.starts_at_ms, table.concat(codes)
  if #fields > 0 then
    accepts = true
    coupon.fields = fields
    if not (may('HSET', coupon.claims_key, 'f', 'v') and may('HINCRBY', KEYS[2 * i + 1], 'stock', '1')) then
      return redis.error_reply('NOPERM claim: this user may not write a coupon (HSET, HINCRBY)')
    end
  end
end
if not accepts then
  if not has_stream() then return { INCONSISTENT, now_ms, 0 } end
  return reply
end

-- Events first. If the stream becomes full in the middle of a batch, the appended events still become claims.
for i, coupon in ipairs(coupons) do
  local id, fields = coupon.id, coupon.fields or {}
  local sent, refused = 0, nil
  for f = 1, #fields, 2 do
    local entry =
      redis.pcall('XADD', KEYS[2], 'NOMKSTREAM', '*', 'order', fields[f + 1], 'coupon', id, 'user', fields[f])
    -- The reply is `false` if there is no stream, and a table if Redis refuses.
    if not entry or entry.err then
      refused = entry or {}
      break
    end
    sent = f + 1
  end
  if sent > 0 then
    redis.call('HSET', coupon.claims_key, unpack(fields, 1, sent))
    redis.call('HINCRBY', KEYS[2 * i + 1], 'stock', -sent / 2)
  end
  if refused then
    if not has_stream() then return { INCONSISTENT, now_ms, 0 } end
    if refused.err:find('exhausted') then return { FULL, now_ms } end
    return refused
  end
end
return reply
