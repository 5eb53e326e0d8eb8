-- What is grabbed. `stock` moves in the transaction that inserts an order, so the check below refuses
-- to oversell whatever Redis says.
create table coupons (
    -- "C": the order of ids is the order of their bytes, here and in the program
    id                text        collate "C" primary key,
    title             text        not null,
    total             bigint      not null,
    stock             bigint      not null,
    starts_at         timestamptz,
    ends_at           timestamptz,
    paused            boolean     not null default false,
    per_user_limit    smallint    not null default 1,
    reserve_seconds   integer,
    unlisted          boolean     not null default false,
    -- grows by one with every edit; Redis has applied `published_version`
    version           bigint      not null default 1,
    published_version bigint      not null default 0,
    created_at        timestamptz not null default clock_timestamp(),
    changed_at        timestamptz not null default clock_timestamp(),
    constraint coupons_total_range check (total between 1 and 1000000000),
    constraint coupons_stock_range check (stock between 0 and total),
    constraint coupons_per_user_limit_range check (per_user_limit between 1 and 16),
    constraint coupons_reserve_seconds_range check (reserve_seconds between 1 and 2592000),
    constraint coupons_window check (starts_at < ends_at)
) with (fillfactor = 50); -- room for the stock's updates on the same page, without touching an index

create index coupons_changed_at on coupons (changed_at);
create index coupons_unpublished on coupons (id) where published_version < version;
