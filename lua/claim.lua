#!lua
-- Claims one unit for each user of a batch: stock down by one, the user noted as holder, the order
-- event appended, all or nothing. Sent twice, it claims once: the second time the user holds it already.
--
-- KEYS[1]           epoch marker
-- KEYS[2]           order stream
-- KEYS[2i+1], [2i+2] coupon hash and claims hash of the batch's i-th coupon
-- ARGV[1]           the marker under which claims are accepted, `ready:<epoch>`
-- ARGV[2]           deadline, ms since 1970 by this server's clock
-- then for each coupon:
--   coupon id, 1 if Postgres says it was published else 0, number of claims n, then n times: user, order
--
-- Reply: { status, now_ms, detail… }
--   STATUS done   0  then for each coupon: stock left, starts_at_ms (0 if none), then n times: code, value
--   STATUS fenced 1  the marker is another one; nothing was written
--   STATUS late   2  the deadline has passed; nothing was written
--   STATUS lost   3  then the number of the coupon that does not add up, 0 for the stream; nothing was written
--   CODE accepted       0  value: stock left just after
--   CODE held           1  value: the order that the user holds already
--   CODE unknown_coupon 2
--   CODE ended          3
--   CODE paused         4
--   CODE not_started    5
--   CODE sold_out       6
-- A key of a wrong type raises WRONGTYPE before the first write.

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return { 1, now_ms } end
if now_ms > tonumber(ARGV[2]) then return { 2, now_ms } end
if redis.call('TYPE', KEYS[2]).ok ~= 'stream' then return { 3, now_ms, 0 } end

-- A whole number in its one spelling, or nil: HINCRBY would refuse any other after the first write.
local function whole(text)
  local number = tonumber(text or 'x')
  if number and number % 1 == 0 and string.format('%d', number) == text then return number end
  return nil
end

local coupons = {}
local arg = 3
for i = 1, (#KEYS - 2) / 2 do
  local coupon_key, claims_key = KEYS[2 * i + 1], KEYS[2 * i + 2]
  local hash = redis.call('HMGET', coupon_key, 'stock', 'total', 'starts_at_ms', 'ends_at_ms', 'paused')
  local held = redis.call('HLEN', claims_key)
  local stock, total = whole(hash[1]), whole(hash[2])
  local absent = not hash[1] and not hash[2] and held == 0 and redis.call('EXISTS', coupon_key) == 0
  local unknown = absent and ARGV[arg + 1] == '0'
  if not unknown and not (stock and total and stock + held == total) then return { 3, now_ms, i } end
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

local reply = { 0, now_ms }
arg = 3
for i, coupon in ipairs(coupons) do
  local id = ARGV[arg]
  local last = arg + 2 + 2 * ARGV[arg + 2]
  local closed = (coupon.unknown and 2)
    or (coupon.ends_at_ms > 0 and now_ms >= coupon.ends_at_ms and 3)
    or (coupon.paused and 4)
    or (now_ms < coupon.starts_at_ms and 5)
  local taken = 0
  local slot = #reply + 1
  reply[slot], reply[slot + 1] = coupon.stock, coupon.starts_at_ms
  for a = arg + 3, last, 2 do
    local user, order = ARGV[a], ARGV[a + 1]
    local held = not coupon.unknown and redis.call('HGET', coupon.claims_key, user)
    local code, value = 0, 0
    if held then
      code, value = 1, held
    elseif closed then
      code = closed
    elseif coupon.stock - taken <= 0 then
      code = 6
    else
      redis.call('HSET', coupon.claims_key, user, order)
      redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', 'order', order, 'coupon', id, 'user', user)
      taken = taken + 1
      value = coupon.stock - taken
    end
    reply[#reply + 1] = code
    reply[#reply + 1] = value
  end
  if taken > 0 then redis.call('HINCRBY', KEYS[2 * i + 1], 'stock', -taken) end
  reply[slot] = coupon.stock - taken
  arg = last + 1
end
return reply
