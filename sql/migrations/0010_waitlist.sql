-- Waiting lists of sold-out coupons: the units that come back go to the users who wait, in the order of joining.

alter table coupons add column waitlist boolean not null default false;

-- Users who wait, and users who have got their unit. The row is written before the place in Redis, so that a rebuild
-- can restore each place that a user was told of.
create table waitlist (
    -- the order that the user gets with the unit; a new id for each join, so that a place is served once
    order_id        uuid        primary key,
    -- the order of joining: the times in order ids come from clocks that may differ
    number          bigint      generated always as identity,
    coupon_id       text        collate "C" not null,
    user_id         text        collate "C" not null,
    idempotency_key text,
    joined_at       timestamptz not null default clock_timestamp(),
    constraint waitlist_user_length check (octet_length(user_id) between 1 and 128)
);

create index waitlist_of_user on waitlist (coupon_id, user_id, number);
