-- Order events that can never be recorded, as they were found in the stream.
create table dead_letters (
    id          bigint      generated always as identity primary key,
    -- null where a rebuild found a claim without an entry
    entry_id    text        constraint dead_letters_one_per_entry unique,
    -- null where the event has no readable order id
    order_id    uuid,
    -- the entry's fields and values as a RESP array: they may be any bytes
    fields      bytea       not null,
    error       text        not null,
    deliveries  bigint,
    died_at     timestamptz not null default clock_timestamp(),
    -- somebody has dealt with it
    seen_at     timestamptz,
    -- the order of the new claim that a replay made
    replaced_by uuid
);

create index dead_letters_of_order on dead_letters (order_id);

-- Units that go back to stock in Redis. A row is written in the transaction that ended its order and
-- deleted after `release.lua` has answered for it.
create table outbox (
    order_id   uuid        primary key,
    coupon_id  text        collate "C" not null,
    user_id    text        collate "C" not null,
    slot       smallint    not null default 1,
    created_at timestamptz not null default clock_timestamp()
);
