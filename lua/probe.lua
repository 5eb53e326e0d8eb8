#!lua flags=no-writes
-- Probes three states that no single command shows: whether this user may run every command that the program sends,
-- whether the order stream can still grow, and whether our scripts have counted each entry that was removed from the
-- stream or that the group has passed.
--
-- KEYS  epoch marker, order stream, position, tally, then a coupon hash, a claims hash, a waiting list and its orders,
--       which need not exist
-- ARGV  consumer group, `rights` if the rights are to be checked
--
-- Reply: an array of the rights that the user lacks, as ACL SETUSER takes them (if there is one, the rest is not read);
--        then the state of the stream: `usable`, `full` (its last id is the highest possible), `passed` (the group's
--        last delivered id is above the stream's last id: the group would skip new entries), `absent` (stream or group);
--        then the present tally, `<removed> <passed>`: entries that were removed, but not by trim.lua, and
--        entries that the group has passed and that are neither pending nor acknowledged by a script. `<passed>` is `?`
--        if Redis cannot count up to an entry that was deleted unread, and `!` if Redis has stopped counting and
--        counts again after recount_tally; then the tally that was settled last, empty if there is none

--@include lib/fields
--@include lib/entry_id

local marker, orders, position, tally, coupon, claims, line, line_orders = unpack(KEYS)
-- Each command has all of its arguments: with too few, Redis would read past their end.
local needed = {
  { 'TIME' }, { 'SCAN', '0' }, { 'INFO' }, { 'EVAL', 'return 0', '0' }, { 'EVALSHA', '0', '0' },
  { 'SCRIPT', 'EXISTS', '0' }, { 'SCRIPT', 'LOAD', 'return 0' },
  { 'GET', marker }, { 'SET', marker, 'v' }, { 'TYPE', marker }, { 'DEL', marker },
  { 'GET', position }, { 'SET', position, 'v' }, { 'TYPE', position }, { 'DEL', position },
  { 'HGET', tally, 'f' }, { 'HSET', tally, 'f', 'v' }, { 'TYPE', tally }, { 'DEL', tally },
  { 'HGET', coupon, 'f' }, { 'HMGET', coupon, 'f' }, { 'HGETALL', coupon }, { 'EXISTS', coupon },
  { 'HSET', coupon, 'f', 'v' }, { 'HINCRBY', coupon, 'stock', '1' }, { 'TYPE', coupon }, { 'DEL', coupon },
  { 'HGET', claims, 'f' }, { 'HMGET', claims, 'f' }, { 'HLEN', claims }, { 'HSCAN', claims, '0' },
  { 'HSET', claims, 'f', 'v' }, { 'HDEL', claims, 'f' }, { 'TYPE', claims }, { 'DEL', claims },
  { 'ZADD', line, '0', 'm' }, { 'ZREM', line, 'm' }, { 'ZRANGE', line, '0', '0' }, { 'ZRANK', line, 'm' },
  { 'ZSCORE', line, 'm' }, { 'ZCARD', line }, { 'DEL', line },
  { 'HGET', line_orders, 'f' }, { 'HMGET', line_orders, 'f' }, { 'HLEN', line_orders },
  { 'HSET', line_orders, 'f', 'v' }, { 'HDEL', line_orders, 'f' }, { 'DEL', line_orders },
  { 'XADD', orders, '*', 'f', 'v' }, { 'XRANGE', orders, '-', '+' }, { 'XREVRANGE', orders, '+', '-' },
  { 'XLEN', orders }, { 'XTRIM', orders, 'MINID', '0' }, { 'TYPE', orders }, { 'DEL', orders },
  { 'XREADGROUP', 'GROUP', ARGV[1], 'c', 'STREAMS', orders, '>' }, { 'XACK', orders, ARGV[1], '0-1' },
  { 'XPENDING', orders, ARGV[1] }, { 'XCLAIM', orders, ARGV[1], 'c', '0', '0-1' },
  { 'XINFO', 'STREAM', orders }, { 'XINFO', 'GROUPS', orders }, { 'XINFO', 'CONSUMERS', orders, ARGV[1] },
  { 'XGROUP', 'CREATE', orders, ARGV[1], '0' }, { 'XGROUP', 'SETID', orders, ARGV[1], '0' },
  { 'XGROUP', 'DELCONSUMER', orders, ARGV[1], 'c' },
}
local has_verb = { SCRIPT = true, XINFO = true, XGROUP = true }

-- Before Redis 7.0 a script cannot query rights: then the answer is yes. For a renamed command the answer is also yes.
local function may(...)
  if not redis.acl_check_cmd then return true end
  local is_known, is_allowed = pcall(redis.acl_check_cmd, ...)
  return not is_known or is_allowed
end

local lacks, listed = {}, {}
for _, command in ipairs(ARGV[2] == 'rights' and needed or {}) do
  if not may(unpack(command)) then
    -- The command is missing, not a key: the user could not run this script without the right to write the keys.
    local lack = '+' .. table.concat(command, '|', 1, has_verb[command[1]] and 2 or 1):lower()
    if not listed[lack] then table.insert(lacks, lack) end
    listed[lack] = true
  end
end
if #lacks > 0 then return { lacks, 'absent', '', '' } end

local settled = redis.call('TYPE', tally).ok == 'hash' and redis.call('HGET', tally, 'settled') or ''
if redis.call('TYPE', orders).ok ~= 'stream' then return { lacks, 'absent', '', settled } end
local group
for _, info in ipairs(redis.call('XINFO', 'GROUPS', orders)) do
  local fields = by_name(info)
  if fields['name'] == ARGV[1] then group = fields end
end
if not group then return { lacks, 'absent', '', settled } end

local stream = by_name(redis.call('XINFO', 'STREAM', orders))
local last, delivered = stream['last-generated-id'], group['last-delivered-id']
local state = 'usable'
if last:find('^18446744073709551615%-') then
  state = 'full'
elseif is_before(last, delivered) then
  state = 'passed'
end

local function counted(field)
  return redis.call('TYPE', tally).ok == 'hash' and tonumber(redis.call('HGET', tally, field) or 0) or 0
end

local removed, passed = '?', '?'
if stream['entries-added'] then
  removed = string.format('%.0f', stream['entries-added'] - stream['length'] - counted('trimmed'))
end
if group['entries-read'] then
  passed = string.format('%.0f', group['entries-read'] - group['pending'] - counted('acknowledged'))
elseif stream['max-deleted-entry-id'] and not is_before(delivered, stream['max-deleted-entry-id']) then
  passed = '!'
end
return { lacks, state, removed .. ' ' .. passed, settled }
