#!lua flags=allow-oom
-- Removes keys of ours that hold another type than a hash.
--
-- KEYS  epoch marker, then any number of coupon and claims hashes
-- ARGV  `building:<epoch>`
--
-- Reply: how many were removed, or -1 where the marker is another one

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local removed = 0
for k = 2, #KEYS do
  local type = redis.call('TYPE', KEYS[k]).ok
  if type ~= 'hash' and type ~= 'none' then removed = removed + redis.call('DEL', KEYS[k]) end
end
return removed
