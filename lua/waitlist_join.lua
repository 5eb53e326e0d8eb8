#!lua
-- Takes places in a coupon's waiting list for users whose rows are in Postgres, or tells, without a write, which of them
-- may join. A batch that is sent twice takes each place once.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash, waiting list, orders of the waiting list, Postgres's WAL
--       position
-- ARGV  `ready:<epoch>`, the WAL position after the commit of the rows (empty: nothing is written), the most users in
--       line, then for each user: user, order, key (empty without a key)
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
--   OUTCOME limit_reached  5  the user holds as many units as allowed
--   OUTCOME ended          6
--   OUTCOME not_sold_out   7
--   OUTCOME full           8  the line is as long as it may be
-- A key of a wrong type and a user who may not run a command of this script raise an error before the first write.

--@include lib/codes
--@include lib/marker
--@include lib/sum
--@include lib/slots
--@include lib/may
--@include lib/line

if is_fenced(ARGV[1]) then return { FENCED } end
if not has_stream() then return { INCONSISTENT } end
local hash = redis.call('HMGET', KEYS[3], 'stock', 'total', 'waitlist', 'ends_at_ms', 'per_user_limit')
local stock, held = whole(hash[1]), redis.call('HLEN', KEYS[4])
local is_absent = held == 0 and redis.call('EXISTS', KEYS[3]) == 0
if not is_absent and not adds_up(stock, held, whole(hash[2])) then return { INCONSISTENT } end

local line, orders, position = KEYS[5], KEYS[6], ARGV[2]
local waiting = redis.call('ZCARD', line)
if not line_is_whole(line, orders) then return { INCONSISTENT } end
local recorded = redis.call('GET', KEYS[7])
local writes = position ~= ''
if writes and not (may('ZADD', line, '0', 'm') and may('HSET', orders, 'f', 'v') and may('SET', KEYS[7], position)) then
  return redis.error_reply('NOPERM waitlist_join: this user may not write a waiting list (ZADD, HSET, SET)')
end
-- A place in Redis is never ahead of the position of its row: an older copy of Postgres is then detected.
if writes and (not recorded or recorded < position) then redis.call('SET', KEYS[7], position) end

local time = redis.call('TIME')
local ends_at_ms = whole(hash[4]) or 0
local has_ended = ends_at_ms > 0 and time[1] * 1000 + math.floor(time[2] / 1000) >= ends_at_ms
local limit = limit_of(hash[5])
local most = tonumber(ARGV[3])
local reply = { DONE, 0 }
local function answer(outcome, detail)
  reply[#reply + 1] = outcome
  reply[#reply + 1] = detail or ''
end

local function join(user, order, key)
  if hash[3] ~= '1' then return answer(3) end
  local known = redis.call('HGET', orders, user)
  local place = redis.call('ZRANK', line, user)
  if known and place then return answer(1, (place + 1) .. ' ' .. string.match(known, '^[^ ]*')) end
  if limit > 1 and key == '' then return answer(4) end
  local value = limit > 1 and order .. ' ' .. key or order
  local free, held = free_field(KEYS[4], user, limit, value)
  if held then return answer(2, string.match(held, '^[^ ]*')) end
  if not free then return answer(5) end
  if has_ended then return answer(6) end
  if stock > 0 and waiting == 0 then return answer(7) end
  if waiting >= most then return answer(8) end
  if writes then
    local last = redis.call('ZRANGE', line, -1, -1, 'WITHSCORES')
    redis.call('ZADD', line, (tonumber(last[2]) or 0) + 1, user)
    redis.call('HSET', orders, user, value)
  end
  waiting = waiting + 1
  answer(0, tostring(waiting))
end

for arg = 4, #ARGV, 3 do join(ARGV[arg], ARGV[arg + 1], ARGV[arg + 2]) end
reply[2] = redis.call('ZCARD', line)
return reply
