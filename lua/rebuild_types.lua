#!lua flags=allow-oom
-- Removes those of our keys that do not hold a hash.
--
-- KEYS  epoch marker, then any number of coupon and claims hashes
-- ARGV  `building:<epoch>`
--
-- Reply: { code, keys removed }
--   CODE done   0
--   CODE fenced 1  the marker is another one; nothing was written

--@include lib/codes
--@include lib/marker

if is_fenced(ARGV[1]) then return { FENCED } end
local removed = 0
for k = 2, #KEYS do
  local type = redis.call('TYPE', KEYS[k]).ok
  if type ~= 'hash' and type ~= 'none' then removed = removed + redis.call('DEL', KEYS[k]) end
end
return { DONE, removed }
