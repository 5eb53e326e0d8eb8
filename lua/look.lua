#!lua flags=no-writes
-- Looks at what shows nowhere else: whether this user may run every command that the program sends, whether the
-- order stream can still grow, and whether every entry that left it or was passed by the group is accounted for.
--
-- KEYS  epoch marker, order stream, position, tally, then a coupon hash and a claims hash, which need not exist
-- ARGV  consumer group
--
-- Reply: an array of what the user lacks, in the words of ACL SETUSER (with any of them the rest is not looked at);
--        then how the stream is: `usable`, `full` (its last id is at the end of all ids), `passed` (the group stands
--        behind the last id, and would skip what comes), `absent` (or without the group);
--        then the tally as it stands, `<removed> <passed>`: entries gone from the stream that trim did not remove,
--        and entries that the group has passed which are neither pending nor acknowledged by a script; in its place
--        `?` where Redis cannot count them as far as an entry that was deleted unread, `!` where it has stopped to
--        count them and would count on after recount; then the tally that was settled last, empty for none

local marker, orders, position, tally, coupon, claims = unpack(KEYS)
-- Each with as many arguments as it takes: Redis reads them, and past their end if there are too few.
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
  { 'XADD', orders, '*', 'f', 'v' }, { 'XRANGE', orders, '-', '+' }, { 'XREVRANGE', orders, '+', '-' },
  { 'XLEN', orders }, { 'XTRIM', orders, 'MINID', '0' }, { 'TYPE', orders }, { 'DEL', orders },
  { 'XREADGROUP', 'GROUP', ARGV[1], 'c', 'STREAMS', orders, '>' }, { 'XACK', orders, ARGV[1], '0-1' },
  { 'XPENDING', orders, ARGV[1] }, { 'XCLAIM', orders, ARGV[1], 'c', '0', '0-1' },
  { 'XINFO', 'STREAM', orders }, { 'XINFO', 'GROUPS', orders }, { 'XINFO', 'CONSUMERS', orders, ARGV[1] },
  { 'XGROUP', 'CREATE', orders, ARGV[1], '0' }, { 'XGROUP', 'SETID', orders, ARGV[1], '0' },
  { 'XGROUP', 'DELCONSUMER', orders, ARGV[1], 'c' },
}
local has_verb = { SCRIPT = true, XINFO = true, XGROUP = true }

-- Absent where Redis cannot tell what a user may do: then he may. So he may where a command has another name.
local function may(...)
  if not redis.acl_check_cmd then return true end
  local is_known, is_allowed = pcall(redis.acl_check_cmd, ...)
  return not is_known or is_allowed
end

local lacks, told = {}, {}
for _, command in ipairs(needed) do
  if not may(unpack(command)) then
    -- It is the command: a user who may not write to the keys could not have called this script.
    local lack = '+' .. table.concat(command, '|', 1, has_verb[command[1]] and 2 or 1):lower()
    if not told[lack] then table.insert(lacks, lack) end
    told[lack] = true
  end
end
if #lacks > 0 then return { lacks, 'absent', '', '' } end

local function named(reply)
  local fields = {}
  for f = 1, #reply, 2 do fields[reply[f]] = reply[f + 1] end
  return fields
end

-- Digits as text: a number of Lua is a double, and 2^64 - 1 would be no larger than 2^64 - 2.
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
local function before(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)%-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)%-(%d+)$')
  if a_ms ~= b_ms then return less(a_ms, b_ms) end
  return less(a_seq, b_seq)
end

local settled = redis.call('TYPE', tally).ok == 'hash' and redis.call('HGET', tally, 'settled') or ''
if redis.call('TYPE', orders).ok ~= 'stream' then return { lacks, 'absent', '', settled } end
local group
for _, info in ipairs(redis.call('XINFO', 'GROUPS', orders)) do
  local fields = named(info)
  if fields['name'] == ARGV[1] then group = fields end
end
if not group then return { lacks, 'absent', '', settled } end

local stream = named(redis.call('XINFO', 'STREAM', orders))
local last, delivered = stream['last-generated-id'], group['last-delivered-id']
local state = 'usable'
if last:find('^18446744073709551615%-') then
  state = 'full'
elseif before(last, delivered) then
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
elseif stream['max-deleted-entry-id'] and not before(delivered, stream['max-deleted-entry-id']) then
  passed = '!'
end
return { lacks, state, removed .. ' ' .. passed, settled }
