#!lua flags=allow-oom
-- Returns the units of orders of one coupon that have ended. If users wait in line, the units go to the first of them
-- in the same step: the stock does not move. Only the claims hash decides, and the order id is the idempotence key:
-- however often the script runs, it returns each unit once. The script also runs when memory is full.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash, waiting list, orders of the waiting list
-- ARGV  `ready:<epoch>`, coupon id, then for each unit: field of the claims hash (the user; `<user>\x1f<slot>` from
--       slot 2), order, the version that the coupon must have before the unit returns (0 for any)
--
-- Reply: { code, units given to users in line, code of each unit…, order that got each given unit… }
--   CODE done         0  of a unit: the script has returned it
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  stream or coupon is absent, stock + claims is not the total, or a user in line has no order;
--                        nothing was written
--   CODE not_held     6  of a unit: the field is absent or has another order, so there is nothing to return
--   CODE too_early    9  of a unit: it stays held, because the coupon has a lower version
-- What can fail comes first: a key of a wrong type, a call above 2,000 units (Lua unpacks at most 8,000 values) and a
-- user who may not run a command of this script raise an error before the first write. If the stream can take no more
-- entries, units stay in stock and their users in line.

--@include lib/codes
--@include lib/marker
--@include lib/sum
--@include lib/slots
--@include lib/may
--@include lib/event
--@include lib/line
--@include lib/serve

-- Locals are cheaper than globals, and `text + 0` is cheaper than tonumber(text).
local call, KEYS, ARGV = redis.call, KEYS, ARGV
if is_fenced(ARGV[1]) then return { FENCED } end
if not has_stream() then return { INCONSISTENT } end
local hash =
  call('HMGET', KEYS[3], 'stock', 'total', 'version', 'waitlist', 'paused', 'ends_at_ms', 'per_user_limit')
local stock = whole(hash[1])
if not adds_up(stock, call('HLEN', KEYS[4]), whole(hash[2])) then return { INCONSISTENT } end
if hash[4] == '1' and not line_is_whole() then return { INCONSISTENT } end
local version = whole(hash[3]) or 0

local fields = {}
for unit = 1, (#ARGV - 2) / 3 do fields[unit] = ARGV[3 * unit] end
local values = call('HMGET', KEYS[4], unpack(fields))
local reply, ended = { DONE, 0 }, {}
for unit, field in ipairs(fields) do
  local order, after_version = ARGV[3 * unit + 1], ARGV[3 * unit + 2] + 0
  local code = DONE
  if not values[unit] or order_of(values[unit]) ~= order then
    code = NOT_HELD
  elseif after_version > 0 and version < after_version then
    code = TOO_EARLY
  else
    ended[#ended + 1] = field
  end
  reply[unit + 2] = code
end
if #ended == 0 then return reply end
if not may('HINCRBY', KEYS[3], 'stock', '1') then
  return redis.error_reply('NOPERM release: this user may not move a stock (HINCRBY)')
end
local first, refusal
if hash[4] == '1' and call('ZCARD', KEYS[5]) > 0 and serves_line(hash[5], hash[6]) then
  first, refusal = first_in_line(#ended)
  if refusal then return refusal end
end
-- Not #ended: the caller may give a field twice, but the field holds only one unit.
local freed = call('HDEL', KEYS[4], unpack(ended))
call('HINCRBY', KEYS[3], 'stock', freed)
if first then
  local orders = serve_line(ARGV[2], limit_of(hash[7]), first, math.min(freed, stock + freed))
  reply[2] = #orders
  for _, order in ipairs(orders) do reply[#reply + 1] = order end
end
return reply
