-- What an accepted claim becomes. No foreign key on the coupon: coupons are never deleted, and each
-- insert moves the coupon's stock in the same transaction, which proves that it exists at less cost.
create table orders (
    id              uuid        primary key,
    coupon_id       text        collate "C" not null,
    user_id         text        collate "C" not null,
    slot            smallint    not null default 1,
    idempotency_key text,
    status          text        not null,
    -- the time inside the id
    claimed_at      timestamptz not null,
    recorded_at     timestamptz not null default clock_timestamp(),
    expires_at      timestamptz,
    constraint orders_status check (status in ('reserved', 'confirmed', 'cancelled', 'expired', 'rejected')),
    constraint orders_slot_range check (slot between 1 and 16),
    -- before any index sees the value: a row too wide for an index is an error of another class
    constraint orders_user_length check (octet_length(user_id) between 1 and 128)
);

-- Among live orders only: who cancelled may claim again. They hold the limit, whatever Redis says.
create unique index orders_one_live_per_slot on orders (coupon_id, user_id, slot)
    where status in ('reserved', 'confirmed');
create unique index orders_one_live_per_key on orders (coupon_id, user_id, idempotency_key)
    where status in ('reserved', 'confirmed') and idempotency_key is not null;

-- Lists, newest first: a buyer's own, a coupon's.
create index orders_of_user on orders (user_id, id);
create index orders_of_coupon on orders (coupon_id, id);
