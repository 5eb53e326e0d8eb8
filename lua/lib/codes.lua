-- The codes of the scripts' replies: one number for each name, the same in every script. `src/redis/lua.rs` has the
-- same codes.
local DONE, FENCED, INCONSISTENT = 0, 1, 2
local LATE, FULL, CURRENT, NOT_HELD, KEPT, CLAIMS_CHANGED, TOO_EARLY = 3, 4, 5, 6, 7, 8, 9
local OTHER_VERSION = 10
