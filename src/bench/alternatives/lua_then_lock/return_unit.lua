#!lua
-- Returns a user's unit to stock.
--
-- KEYS[1] stock: a string, units left
-- KEYS[2] buyers: a set, users who have one
-- ARGV[1] user
--
-- Reply: 1 if it was returned, 0 if the user had none

if redis.call('SREM', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('INCR', KEYS[1])
return 1
