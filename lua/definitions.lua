#!lua
-- Reads fields of coupon hashes with the number of units held, all at one moment. Writes nothing.
--
-- KEYS  coupon hash and claims hash in turn
-- ARGV  names of fields
--
-- Reply: for each coupon an array: units held, then the value of each field, nil if it is absent. A key of a wrong
-- type raises WRONGTYPE.

local reply = {}
for i = 1, #KEYS / 2 do
  local fields = redis.call('HMGET', KEYS[2 * i - 1], unpack(ARGV))
  table.insert(fields, 1, redis.call('HLEN', KEYS[2 * i]))
  reply[i] = fields
end
return reply
