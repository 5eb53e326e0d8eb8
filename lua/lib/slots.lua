-- The units that one user may hold of a coupon. Each has a field in the claims hash.

-- The highest limit that the program allows; an operator may have edited the limit in the hash.
local MOST_SLOTS = 16

local function limit_of(text) return math.max(1, math.min(whole(text) or 1, MOST_SLOTS)) end
local function slot_field(user, slot) return slot == 1 and user or user .. '\31' .. slot end
