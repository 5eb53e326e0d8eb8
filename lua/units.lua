#!lua flags=no-writes
-- Reads the units of one coupon at one moment. Writes nothing.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash
-- ARGV  for each unit that may be on its way back to stock: field of the claims hash, order
--
-- Reply: this server's clock in ms since 1970, the marker, the stream's last id, units held, how many of the units of ARGV
--        are still held, then `stock`, `total` and `version` of the coupon hash, nil if absent. A key of a wrong type
--        raises WRONGTYPE.

--@include lib/fields

local time = redis.call('TIME')
local still_held = 0
-- In parts, because Lua passes at most some thousand values to one command.
for first = 1, #ARGV, 2000 do
  local fields, orders = {}, {}
  for arg = first, math.min(first + 1999, #ARGV), 2 do
    fields[#fields + 1], orders[#orders + 1] = ARGV[arg], ARGV[arg + 1]
  end
  for unit, value in ipairs(redis.call('HMGET', KEYS[4], unpack(fields))) do
    if value and string.match(value, '^[^ ]*') == orders[unit] then still_held = still_held + 1 end
  end
end
local hash = redis.call('HMGET', KEYS[3], 'stock', 'total', 'version')
return {
  time[1] * 1000 + math.floor(time[2] / 1000), redis.call('GET', KEYS[1]),
  by_name(redis.call('XINFO', 'STREAM', KEYS[2]))['last-generated-id'],
  redis.call('HLEN', KEYS[4]), still_held, hash[1], hash[2], hash[3],
}
