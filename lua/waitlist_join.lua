#!lua
-- Takes places in a coupon's waiting list for users whose rows are in Postgres, or tells, without a write, which of them
-- may join. A batch that is sent twice takes each place once.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash, waiting list, orders of the waiting list, Postgres's WAL
--       position
-- ARGV  `ready:<epoch>`, the WAL position after the commit of the rows (empty: nothing is written), the most users in
--       line, then for each of at most 2,000 users: user, order, key (empty without a key)
--
-- Reply: { code, users in line, then for each user: outcome, detail }
--   CODE done         0
--   CODE fenced       1  the marker is another one; nothing was written
--   CODE inconsistent 2  the stream is absent, stock + claims is not the total, or a user in line has no order; nothing
--                        was written
--   OUTCOME joined         0  or may join; the detail is the place, from 1
--   OUTCOME waits          1  the user is in line; the detail is `<place> <order>`
--   OUTCOME held           2  the user holds a unit, where the limit is above 1 one with this key; the detail is its order
--   OUTCOME no_waitlist    3  the coupon has no waiting list, or does not exist
--   OUTCOME key_required   4
--   OUTCOME slots_taken    5  the user holds as many units as allowed
--   OUTCOME ended          6
--   OUTCOME not_sold_out   7
--   OUTCOME full           8  the line is as long as it may be
-- What can fail comes first: a key of a wrong type and a user who may not run a command of this script raise an error
-- before the first write.

--@include lib/codes
--@include lib/marker
--@include lib/sum
--@include lib/slots
--@include lib/may
--@include lib/line

local JOINED, WAITS, HELD, NO_WAITLIST = 0, 1, 2, 3
local KEY_REQUIRED, SLOTS_TAKEN, ENDED, NOT_SOLD_OUT, LINE_FULL = 4, 5, 6, 7, 8

if is_fenced(ARGV[1]) then return { FENCED } end
if not has_stream() then return { INCONSISTENT } end
local hash = redis.call('HMGET', KEYS[3], 'stock', 'total', 'waitlist', 'ends_at_ms', 'per_user_limit')
local stock, held = whole(hash[1]), redis.call('HLEN', KEYS[4])
local is_absent = held == 0 and redis.call('EXISTS', KEYS[3]) == 0
if not is_absent and not adds_up(stock, held, whole(hash[2])) then return { INCONSISTENT } end
if not line_is_whole() then return { INCONSISTENT } end

local line, orders, position = KEYS[5], KEYS[6], ARGV[2]
local writes = position ~= ''
local waiting, most = redis.call('ZCARD', line), tonumber(ARGV[3])
local last = tonumber(redis.call('ZRANGE', line, -1, -1, 'WITHSCORES')[2] or 0)
local recorded = redis.call('GET', KEYS[7])
local time, ends_at_ms = redis.call('TIME'), whole(hash[4]) or 0
local has_ended = ends_at_ms > 0 and time[1] * 1000 + time[2] / 1000 >= ends_at_ms
local limit = limit_of(hash[5])
-- Scores and users, users and values to write; the places that this batch takes by user.
local places, values, taken = {}, {}, {}

-- The outcome for a user, and its detail.
local function outcome(user, order, key)
  if hash[3] ~= '1' then return NO_WAITLIST, '' end
  if taken[user] then return WAITS, taken[user] end
  local known, rank = redis.call('HGET', orders, user), redis.call('ZRANK', line, user)
  if known and rank then return WAITS, (rank + 1) .. ' ' .. order_of(known) end
  if limit > 1 and key == '' then return KEY_REQUIRED, '' end
  local value = limit > 1 and order .. ' ' .. key or order
  local free, owned = free_field(user, limit, value)
  if owned then return HELD, order_of(owned) end
  if not free then return SLOTS_TAKEN, '' end
  if has_ended then return ENDED, '' end
  if stock > 0 and waiting == 0 then return NOT_SOLD_OUT, '' end
  if waiting >= most then return LINE_FULL, '' end
  -- A place without an order is lost: the user gets the last place.
  waiting, last = waiting + (rank and 0 or 1), last + 1
  if writes then
    places[#places + 1], places[#places + 2] = last, user
    values[#values + 1], values[#values + 2] = user, value
    taken[user] = waiting .. ' ' .. order
  end
  return JOINED, tostring(waiting)
end

local reply = { DONE, 0 }
for arg = 4, #ARGV, 3 do
  reply[#reply + 1], reply[#reply + 2] = outcome(ARGV[arg], ARGV[arg + 1], ARGV[arg + 2])
end
if #places > 0 then
  if not (may('ZADD', line, '0', 'm') and may('HSET', orders, 'f', 'v') and may('SET', KEYS[7], position)) then
    return redis.error_reply('NOPERM waitlist_join: this user may not write a waiting list (ZADD, HSET, SET)')
  end
  -- A place in Redis is never ahead of the position of its row: an older copy of Postgres is then detected.
  if not recorded or recorded < position then redis.call('SET', KEYS[7], position) end
  redis.call('ZADD', line, unpack(places))
  redis.call('HSET', orders, unpack(values))
end
reply[2] = redis.call('ZCARD', line)
return reply
