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
--   coupon id, flags (1 if Postgres says that it was published, plus 2 if a claim has a key), number of claims n, n users,
--   n orders, then, if a claim has a key, n keys (empty for a claim without a key)
--
-- Reply: { code, now_ms, detail… }
--   CODE done         0  then for each coupon: stock left, starts_at_ms (0 if none), a string of n outcomes; then for
--                        each outcome held: the order that the user holds already
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

-- Locals are cheaper than globals, and `text + 0` is cheaper than tonumber(text).
local call, try_call, KEYS, ARGV = redis.call, redis.pcall, KEYS, ARGV
local time = call('TIME')
-- Has a fraction, which Redis cuts off in a reply.
local now_ms = time[1] * 1000 + time[2] / 1000

if is_fenced(ARGV[1]) then return { FENCED, now_ms } end
if now_ms > ARGV[2] + 0 then return { LATE, now_ms } end

-- The claims of a coupon of which a user may hold several units. Returns the fields and values to write, the outcomes and
-- the stock that is left. The user, order and key of the n-th claim are ARGV[users_at + n] and so on; `keys_at` is nil if
-- no claim has a key.
local function claim_slots(claims_key, limit, claims, users_at, orders_at, keys_at, left, closed, repeated)
  -- For each user: the fields of all slots, and the values of the taken slots, with those that this batch has taken.
  local names, values = {}, {}
  local fields, codes = {}, {}
  for n = 1, claims do
    local user, key = ARGV[users_at + n], keys_at and ARGV[keys_at + n] or ''
    if not names[user] then
      names[user] = { user }
      for slot = 2, limit do
        names[user][slot] = slot_field(user, slot)
      end
      values[user] = call('HMGET', claims_key, unpack(names[user]))
    end
    local slots = values[user]
    local held, free
    for slot = 1, limit do
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
      slots[free] = ARGV[orders_at + n] .. ' ' .. key
      fields[#fields + 1] = names[user][free]
      fields[#fields + 1] = slots[free]
    end
  end
  return fields, codes, left
end

local reply = { DONE, now_ms }
-- The orders of held units.
local repeated = {}
-- The coupons with accepted claims.
local accepted = {}
local arg = 3
for key = 3, #KEYS, 3 do
  local coupon_key, claims_key = KEYS[key], KEYS[key + 1]
  local id, flags, claims = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2] + 0
  if claims > 3000 then return redis.error_reply('ERR claim: more than 3,000 claims of a coupon') end
  local hash = call(
    'HMGET', coupon_key, 'stock', 'total', 'starts_at_ms', 'ends_at_ms', 'paused', 'per_user_limit', 'waitlist'
  )
  local held_units = call('HLEN', claims_key)
  local left = whole(hash[1])
  local unknown = held_units == 0 and not hash[1] and not hash[2] and flags % 2 == 0
    and call('EXISTS', coupon_key) == 0
  if unknown then
    left = 0
  elseif not adds_up(left, held_units, whole(hash[2])) then
    if not has_stream() then return { INCONSISTENT, now_ms, 0 } end
    return { INCONSISTENT, now_ms, key / 3 }
  end
  -- Units in stock belong to the users in line, who are served before any claim.
  if hash[7] == '1' and left > 0 and call('ZCARD', KEYS[key + 2]) > 0 then left = 0 end
  local starts_at_ms = hash[3] ~= '0' and tonumber(hash[3] or 0) or 0
  local ends_at_ms = hash[4] ~= '0' and tonumber(hash[4] or 0) or 0
  local closed = (unknown and '2')
    or (ends_at_ms > 0 and now_ms >= ends_at_ms and '3')
    or (hash[5] == '1' and '4')
    or (now_ms < starts_at_ms and '5')
  local users_at = arg + 2
  local orders_at = users_at + claims
  local keys_at = flags >= '2' and orders_at + claims or nil
  -- Fields and values to write to the claims hash.
  local fields, codes = {}, {}
  local limit = hash[6] == '1' and 1 or limit_of(hash[6])
  if limit > 1 then
    fields, codes, left =
      claim_slots(claims_key, limit, claims, users_at, orders_at, keys_at, left, closed, repeated)
  else
    local held = unknown and {} or call('HMGET', claims_key, unpack(ARGV, users_at + 1, orders_at))
    -- Orders of this batch by user.
    local mine = {}
    local size = 0
    for n = 1, claims do
      local user = ARGV[users_at + n]
      local order = held[n] or mine[user]
      if order then
        codes[n] = '1'
        repeated[#repeated + 1] = order
      elseif closed then
        codes[n] = closed
      elseif left <= 0 then
        codes[n] = '6'
      else
        order = ARGV[orders_at + n]
        codes[n] = '0'
        left = left - 1
        mine[user] = order
        fields[size + 1], fields[size + 2] = user, order
        size = size + 2
      end
    end
  end
  local last = #reply
  reply[last + 1], reply[last + 2], reply[last + 3] = left, starts_at_ms, table.concat(codes)
  if #fields > 0 then
    accepted[#accepted + 1] = {
      id = id,
      coupon_key = coupon_key,
      claims_key = claims_key,
      fields = fields,
      has_slots = limit > 1,
    }
  end
  arg = (keys_at or orders_at) + claims + 1
end
for _, order in ipairs(repeated) do reply[#reply + 1] = order end
if #accepted == 0 then
  if not has_stream() then return { INCONSISTENT, now_ms, 0 } end
  return reply
end
for _, coupon in ipairs(accepted) do
  if not (may('HSET', coupon.claims_key, 'f', 'v') and may('HINCRBY', coupon.coupon_key, 'stock', '1')) then
    return redis.error_reply('NOPERM claim: this user may not write a coupon (HSET, HINCRBY)')
  end
end

-- Events first. If the stream becomes full in the middle of a batch, the appended events still become claims.
local stream = KEYS[2]
for _, coupon in ipairs(accepted) do
  local id, fields, has_slots = coupon.id, coupon.fields, coupon.has_slots
  local sent, refused = 0, nil
  for f = 1, #fields, 2 do
    local field, value = fields[f], fields[f + 1]
    local entry
    if has_slots then
      entry = send_event(try_call, stream, id, field, value)
    else
      entry = try_call('XADD', stream, 'NOMKSTREAM', '*', 'order', value, 'coupon', id, 'user', field)
    end
    -- `false` where there is no stream, a table where Redis refuses.
    if not entry or entry.err then
      refused = entry or {}
      break
    end
    sent = f + 1
  end
  if sent > 0 then
    call('HSET', coupon.claims_key, unpack(fields, 1, sent))
    call('HINCRBY', coupon.coupon_key, 'stock', -sent / 2)
  end
  if refused then
    if not has_stream() then return { INCONSISTENT, now_ms, 0 } end
    if refused.err:find('exhausted') then return { FULL, now_ms } end
    return refused
  end
end
return reply
