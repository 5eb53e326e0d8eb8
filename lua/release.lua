#!lua flags=allow-oom
-- Returns the units of orders of one coupon that have ended. Only the claims hash decides, and the order id is the
-- idempotence key: however often the script runs, it returns each unit once. The script also runs when memory is full.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash
-- ARGV  `ready:<epoch>`, then for each unit: field of the claims hash (the user; `<user>\x1f<slot>` from slot 2), order,
--       the version that the coupon must have before the unit returns (0 for any)
--
-- Reply: { code, code of each unit… }
--   CODE done         0  of a unit: the script has returned it
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  stream or coupon is absent, or stock + claims is not the total; nothing was written
--   CODE not_held     6  of a unit: the field is absent or has another order, so there is nothing to return
--   CODE too_early    9  of a unit: it stays held, because the coupon has a lower version
-- What can fail comes first: a key of a wrong type, a call above 2,000 units (Lua unpacks at most 8,000 values) and a
-- user who may not run a command of this script raise an error before the first write.

--@include lib/codes
--@include lib/marker
--@include lib/sum
--@include lib/may

if is_fenced(ARGV[1]) then return { FENCED } end
if not has_stream() then return { INCONSISTENT } end
local hash = redis.call('HMGET', KEYS[3], 'stock', 'total', 'version')
if not adds_up(whole(hash[1]), redis.call('HLEN', KEYS[4]), whole(hash[2])) then return { INCONSISTENT } end
local version = whole(hash[3]) or 0

local fields = {}
for arg = 2, #ARGV, 3 do fields[#fields + 1] = ARGV[arg] end
local values = redis.call('HMGET', KEYS[4], unpack(fields))
local reply, ended = { DONE }, {}
for unit, field in ipairs(fields) do
  local order, after_version = ARGV[3 * unit], tonumber(ARGV[3 * unit + 1])
  local code = DONE
  -- The value is `<order>` or `<order> <key>`.
  if not values[unit] or string.match(values[unit], '^[^ ]*') ~= order then
    code = NOT_HELD
  elseif after_version > 0 and version < after_version then
    code = TOO_EARLY
  else
    ended[#ended + 1] = field
  end
  reply[unit + 1] = code
end
if #ended == 0 then return reply end
if not may('HINCRBY', KEYS[3], 'stock', '1') then
  return redis.error_reply('NOPERM release: this user may not move a stock (HINCRBY)')
end
-- Not #ended: the caller may give a field twice, but the field holds only one unit.
local freed = redis.call('HDEL', KEYS[4], unpack(ended))
redis.call('HINCRBY', KEYS[3], 'stock', freed)
return reply
