-- What the last agreement of a partition rests on. It changes only at the end of a rebuild: a rebuild that dies after it
-- has started its epoch on a promoted standby leaves what the next one must compare.
alter table fence
    add column agreed_epoch        text    not null default '',
    -- `postgres_identity` at the last agreement; empty before the first one of this version
    add column agreed_postgres     text    not null default '',
    -- commits waited for a synchronous standby
    add column agreed_with_standby boolean not null default false;
