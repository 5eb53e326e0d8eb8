-- The checks of a fenced script, whose first two keys are the epoch marker and the order stream.
local function is_fenced(marker) return redis.call('GET', KEYS[1]) ~= marker end
local function has_stream() return redis.call('TYPE', KEYS[2]).ok == 'stream' end
