-- Names this server: a restored copy keeps the system identifier, a promotion changes the timeline.
-- The timeline comes from the current WAL file's name; pg_control_checkpoint() shows the old one for
-- some time after a promotion.
create function postgres_identity() returns text
    language sql volatile
    return (select system_identifier::text from pg_control_system())
        || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);

-- How far the WAL is durable, with all digits, so that positions compare as text. An older copy of this
-- server put in its place shows a lower one.
create function durable_lsn() returns text
    language sql volatile
    return (
        select lpad(split_part(lsn, '/', 1), 8, '0') || '/' || lpad(split_part(lsn, '/', 2), 8, '0')
        from (select pg_current_wal_flush_lsn()::text as lsn) position
    );

-- One row for each partition of the Redis keys: the epoch that names the present agreement between
-- Redis and Postgres, and the servers between which it was made.
create table fence (
    partition         integer     primary key,
    -- a counter and a random part, `7-c0ffee12`; 0 before the first rebuild
    epoch             text        not null constraint fence_epoch_format check (epoch ~ '^[0-9]+-[0-9a-f]+$'),
    postgres_identity text        not null default '',
    redis_run_id      text        not null default '',
    redis_replid      text        not null default '',
    -- Postgres is known to have lost commits; claims wait for a person
    postgres_lost     boolean     not null default false,
    rebuilt_at        timestamptz
);

insert into fence (partition, epoch) values (0, '0-0');
