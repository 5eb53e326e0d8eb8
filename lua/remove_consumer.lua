#!lua flags=allow-oom
-- Removes a consumer that is gone and holds nothing: DELCONSUMER alone would drop what it holds.
--
-- KEYS  epoch marker, order stream
-- ARGV  `ready:<epoch>`, consumer group, consumer, idle time in ms after which it counts as gone
--
-- Reply
--   CODE removed 0
--   CODE kept    1  it holds entries, was seen lately or is not there
--   CODE fenced  2  the marker is another one; nothing was written

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 2 end
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[2], ARGV[2])) do
  local consumer = {}
  for f = 1, #info, 2 do consumer[info[f]] = info[f + 1] end
  if consumer['name'] == ARGV[3] and consumer['pending'] == 0 and consumer['idle'] >= tonumber(ARGV[4]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[2], ARGV[2], ARGV[3])
    return 0
  end
end
return 1
