#!lua
-- Deducts one unit for a user who has none.
--
-- KEYS[1] stock: a string, units left
-- KEYS[2] buyers: a set, users who have one
-- ARGV[1] user
--
-- Reply: 1 if the user got the unit, 0 if none is left or the user has one

if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 1 then return 0 end
if tonumber(redis.call('GET', KEYS[1]) or 0) <= 0 then return 0 end
redis.call('DECR', KEYS[1])
redis.call('SADD', KEYS[2], ARGV[1])
return 1
