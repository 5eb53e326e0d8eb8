#!lua flags=allow-oom
-- Sets a coupon to Postgres's definition and its stock to total - claims, if the claims hash has as many fields as the
-- rebuild has decided. Otherwise another program has deleted claims, and their units would count as free.
--
-- KEYS  epoch marker, order stream, coupon hash, claims hash
-- ARGV  `building:<epoch>`, claims decided, total, then the other fields as name, value, …
--
-- Reply
--   CODE done           0
--   CODE fenced         1  the marker is another one; nothing was written
--   CODE inconsistent   2  the stream is absent; nothing was written
--   CODE claims_changed 8  the claims hash has another number of fields; nothing was written

--@include lib/codes
--@include lib/marker

if is_fenced(ARGV[1]) then return FENCED end
if not has_stream() then return INCONSISTENT end
local held = redis.call('HLEN', KEYS[4])
if held ~= tonumber(ARGV[2]) then return CLAIMS_CHANGED end
-- A single write: a script with two writes could fail between them.
redis.call('HSET', KEYS[3], 'total', ARGV[3], 'stock', ARGV[3] - held, unpack(ARGV, 4))
return DONE
