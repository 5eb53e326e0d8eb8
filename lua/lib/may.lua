-- Whether Redis's user may run a command. Before Redis 7.0 a script cannot query rights: then the answer is yes.
local may = redis.acl_check_cmd or function() return true end
