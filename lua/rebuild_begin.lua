#!lua flags=allow-oom
-- Begins a rebuild: until `rebuild_ready` only this rebuild writes to our keys. If the stream is full, deletes it and
-- creates it again with the entries that are not acknowledged.
--
-- KEYS  epoch marker, order stream, Postgres's WAL position, tally
-- ARGV  epoch, consumer group
--
-- Reply
--   CODE done   0
--   CODE fenced 1  the marker has a newer epoch; nothing was written

--@include lib/codes
--@include lib/fields
--@include lib/entry_id
--@include lib/may

local has_marker = redis.call('TYPE', KEYS[1]).ok == 'string'
if has_marker then
  local marker = redis.call('GET', KEYS[1])
  local theirs = tonumber(string.match(marker, '^%a+:(%d+)%-')) or -1
  local ours = tonumber(string.match(ARGV[1], '^(%d+)%-'))
  local same = marker == 'building:' .. ARGV[1]
  if theirs > ours or (theirs == ours and not same) then return FENCED end
end

for _, command in ipairs({
  { 'SET', KEYS[1], 'v' }, { 'DEL', KEYS[1] }, { 'DEL', KEYS[2] }, { 'DEL', KEYS[3] }, { 'DEL', KEYS[4] },
  { 'XADD', KEYS[2], '*', 'f', 'v' }, { 'XGROUP', 'CREATE', KEYS[2], ARGV[2], '0' },
  { 'XGROUP', 'SETID', KEYS[2], ARGV[2], '0' },
}) do
  if not may(unpack(command)) then
    return redis.error_reply('NOPERM rebuild_begin: this user may not run ' .. command[1])
  end
end

local type = redis.call('TYPE', KEYS[2]).ok
local groups, ours, removed, is_full, is_passed = {}, nil, 0, false, false
if type == 'stream' then
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
    local group = by_name(info)
    table.insert(groups, group['name'])
    if group['name'] == ARGV[2] then ours = group end
  end
  local stream = by_name(redis.call('XINFO', 'STREAM', KEYS[2]))
  removed = (stream['entries-added'] or stream['length']) - stream['length']
  is_full = stream['last-generated-id']:find('^18446744073709551615%-') ~= nil
  is_passed = ours ~= nil and is_before(stream['last-generated-id'], ours['last-delivered-id'])
end

-- The fields of every entry that our group has not acknowledged; of all entries if the group is absent or has passed
-- the stream's last id.
local function unacknowledged()
  local events = {}
  local function keep(entries)
    for _, entry in ipairs(entries) do table.insert(events, entry[2]) end
  end
  local from = '-'
  if ours and not is_passed then
    repeat
      local page = redis.call('XPENDING', KEYS[2], ARGV[2], from, '+', 1000)
      for _, pending in ipairs(page) do
        keep(redis.call('XRANGE', KEYS[2], pending[1], pending[1]))
        from = '(' .. pending[1]
      end
    until #page == 0
    from = '(' .. ours['last-delivered-id']
    if from == '(18446744073709551615-18446744073709551615' then return events end
  end
  repeat
    local page = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', 1000)
    keep(page)
    if #page > 0 then from = '(' .. page[#page][1] end
  until #page == 0 or from == '(18446744073709551615-18446744073709551615'
  return events
end
local events = is_full and unacknowledged() or {}

if not has_marker then redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], 'building:' .. ARGV[1])
local lsn_type = redis.call('TYPE', KEYS[3]).ok
if lsn_type ~= 'string' and lsn_type ~= 'none' then redis.call('DEL', KEYS[3]) end
local tally_type = redis.call('TYPE', KEYS[4]).ok
if tally_type ~= 'hash' and tally_type ~= 'none' then redis.call('DEL', KEYS[4]) end

local has_group = ours
if is_full or (type ~= 'stream' and type ~= 'none') then
  redis.call('DEL', KEYS[2])
  has_group, removed = nil, 0
end
-- Creates the group at 0: a group at $ would skip the entries that are not recorded yet.
if not has_group then
  redis.call('XGROUP', 'CREATE', KEYS[2], ARGV[2], '0', 'MKSTREAM', 'ENTRIESREAD', removed)
elseif is_passed then
  redis.call('XGROUP', 'SETID', KEYS[2], ARGV[2], '0', 'ENTRIESREAD', removed)
end
if is_full then
  for _, name in ipairs(groups) do
    if name ~= ARGV[2] then redis.call('XGROUP', 'CREATE', KEYS[2], name, '0') end
  end
  -- Lua unpacks at most 8,000 values; one of our events has six.
  for _, fields in ipairs(events) do
    redis.call('XADD', KEYS[2], '*', unpack(fields, 1, math.min(#fields, 7000)))
  end
end
return DONE
