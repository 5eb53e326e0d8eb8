#!lua flags=no-writes
-- Reads a part of a waiting list, and whether the list is whole, at one moment: users join, leave and are served between
-- two commands. Writes nothing.
--
-- KEYS  waiting list, orders of the waiting list
-- ARGV  the score after which the part begins, as a bound of ZRANGE; the most users of the part. Users with the last
--       user's score, whom only another program can have written, come on top.
--
-- Reply: users in the list, orders in the hash, then for each user of the part, in the order of joining: user, score, and
--        the value of the order, nil if absent. A key of a wrong type raises WRONGTYPE.

local page = redis.call('ZRANGE', KEYS[1], ARGV[1], '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
local users, scores, known = {}, {}, {}
local function add(user, score)
  if not known[user] then users[#users + 1], scores[#scores + 1], known[user] = user, score, true end
end
for at = 1, #page, 2 do add(page[at], page[at + 1]) end
local last = page[#page]
for _, user in ipairs(last and redis.call('ZRANGE', KEYS[1], last, last, 'BYSCORE') or {}) do add(user, last) end

local reply = { redis.call('ZCARD', KEYS[1]), redis.call('HLEN', KEYS[2]) }
for n, user in ipairs(users) do
  reply[3 * n], reply[3 * n + 1], reply[3 * n + 2] = user, scores[n], redis.call('HGET', KEYS[2], user)
end
return reply
