#!lua
-- Claims one unit for each user of a batch: appends the order event, adds the user to the claims hash and takes one from
-- the stock; all of it or nothing. A batch that is sent twice claims once: the second time each user holds the unit.
-- If a user may hold several units (`per_user_limit` of the coupon hash), each unit has a slot. A claim with the
-- Idempotency-Key of a held unit is a repeat; a claim with a new key is a further claim.
--
-- KEYS[1]           epoch marker
-- KEYS[2]           order stream
-- KEYS[3i], [3i+1], [3i+2] coupon hash, claims hash and waiting list of the batch's i-th coupon
-- ARGV[1]           the marker under which claims are accepted, `ready:<epoch>`
-- ARGV[2]           deadline, ms since 1970 by this server's clock
-- then for each coupon:
--   coupon id, flags (1 if Postgres says that it was published, plus 2 if a claim has a key), number of claims n, then
--   n times: user, order; then, if a claim has a key, n times: key (empty for a claim without a key)
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
--   OUTCOME key_required   7
--   OUTCOME slots_taken    8
-- What can fail comes first: a key of a wrong type, a batch above 3,000 claims (Lua unpacks at most 8,000 values)
-- and a user who may not run a command of this script raise an error before the first write. The first write is an
-- event; once it is appended, the writes that go with it cannot fail.

--@include lib/codes
--@include lib/marker
--@include lib/sum
--@include lib/slots
--@include lib/may
--@include lib/event

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

if is_fenced(ARGV[1]) then return { FENCED, now_ms } end
if now_ms > tonumber(ARGV[2]) then return { LATE, now_ms } end

local coupons = {}
local arg = 3
for i = 1, (#KEYS - 2) / 3 do
  local coupon_key, claims_key = KEYS[3 * i], KEYS[3 * i + 1]
  local hash = redis.call(
    'HMGET', coupon_key, 'stock', 'total', 'starts_at_ms', 'ends_at_ms', 'paused', 'per_user_limit', 'waitlist'
  )
  local held = redis.call('HLEN', claims_key)
  local stock, total = whole(hash[1]), whole(hash[2])
  local absent = not hash[1] and not hash[2] and held == 0 and redis.call('EXISTS', coupon_key) == 0
  local unknown = absent and ARGV[arg + 1] % 2 == 0
  if not unknown and not adds_up(stock, held, total) then
    if not has_stream() then return { INCONSISTENT, now_ms, 0 } end
    return { INCONSISTENT, now_ms, i }
  end
  local limit = hash[6] == '1' and 1 or limit_of(hash[6])
  -- Units in stock belong to the users in line, who are served before any claim.
  if hash[7] == '1' and redis.call('ZCARD', KEYS[3 * i + 2]) > 0 then stock = math.min(stock or 0, 0) end
  coupons[i] = {
    claims_key = claims_key,
    unknown = unknown,
    stock = stock or 0,
    starts_at_ms = hash[3] ~= '0' and tonumber(hash[3] or 0) or 0,
    ends_at_ms = hash[4] ~= '0' and tonumber(hash[4] or 0) or 0,
    paused = hash[5] == '1',
    -- nil for a limit of 1: a Lua table with eight fields is cheaper than one with nine.
    limit = limit > 1 and limit or nil,
  }
  arg = arg + 3 + (ARGV[arg + 1] < '2' and 2 or 3) * ARGV[arg + 2]
end

-- Makes the claims of a coupon of which a user may hold several units. The key of the n-th claim is ARGV[keys_at + n];
-- `keys_at` is nil if no claim has a key.
local function claim_slots(coupon, users, orders, keys_at, closed, repeated)
  -- For each user: the fields of all slots, and the values of the taken slots, with those that this batch has taken.
  local names, values = {}, {}
  local fields, codes = {}, {}
  local left = coupon.stock
  for n, user in ipairs(users) do
    local key = keys_at and ARGV[keys_at + n] or ''
    if not names[user] then
      names[user] = { user }
      for slot = 2, coupon.limit do
        names[user][slot] = slot_field(user, slot)
      end
      values[user] = redis.call('HMGET', coupon.claims_key, unpack(names[user]))
    end
    local slots = values[user]
    local held, free
    for slot = 1, coupon.limit do
      if not slots[slot] then
        free = free or slot
      elseif string.match(slots[slot], ' (.*)$') == key then
        held = slots[slot]
      end
    end
    if key == '' then
      codes[n] = '7'
    elseif held then
      codes[n] = '1'
      repeated[#repeated + 1] = held
    elseif closed then
      codes[n] = closed
    elseif not free then
      codes[n] = '8'
    elseif left <= 0 then
      codes[n] = '6'
    else
      codes[n] = '0'
      left = left - 1
      slots[free] = orders[n] .. ' ' .. key
      fields[#fields + 1] = names[user][free]
      fields[#fields + 1] = slots[free]
    end
  end
  return fields, codes, left
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
  local keys_at
  local has_keys = ARGV[arg + 1] >= '2'
  arg = arg + 3 + 2 * claims
  if has_keys then
    keys_at = arg - 1
    arg = arg + claims
  end
  local closed = (coupon.unknown and '2')
    or (coupon.ends_at_ms > 0 and now_ms >= coupon.ends_at_ms and '3')
    or (coupon.paused and '4')
    or (now_ms < coupon.starts_at_ms and '5')
  -- Fields and values to write to the claims hash.
  local fields, codes = {}, {}
  local left = coupon.stock
  if coupon.limit then
    fields, codes, left = claim_slots(coupon, users, orders, keys_at, closed, repeated)
  else
    local held = coupon.unknown and {} or redis.call('HMGET', coupon.claims_key, unpack(users))
    -- Orders of this batch by user.
    local mine = {}
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
  end
  local last = #reply
  reply[last + 1], reply[last + 2], reply[last + 3] = left, coupon.starts_at_ms, table.concat(codes)
  if #fields > 0 then
    accepts = true
    coupon.fields = fields
    if not (may('HSET', coupon.claims_key, 'f', 'v') and may('HINCRBY', KEYS[3 * i], 'stock', '1')) then
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
  local id, fields, has_slots = coupon.id, coupon.fields or {}, coupon.limit
  local sent, refused = 0, nil
  for f = 1, #fields, 2 do
    local field, value = fields[f], fields[f + 1]
    local entry
    if has_slots then
      entry = send_event(redis.pcall, KEYS[2], id, field, value)
    else
      entry = redis.pcall('XADD', KEYS[2], 'NOMKSTREAM', '*', 'order', value, 'coupon', id, 'user', field)
    end
    -- `false` where there is no stream, a table where Redis refuses.
    if not entry or entry.err then
      refused = entry or {}
      break
    end
    sent = f + 1
  end
  if sent > 0 then
    redis.call('HSET', coupon.claims_key, unpack(fields, 1, sent))
    redis.call('HINCRBY', KEYS[3 * i], 'stock', -sent / 2)
  end
  if refused then
    if not has_stream() then return { INCONSISTENT, now_ms, 0 } end
    if refused.err:find('exhausted') then return { FULL, now_ms } end
    return refused
  end
end
return reply
