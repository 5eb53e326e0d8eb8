-- A coupon can be spread over several partitions. Each partition then has a share: a row with a total, a stock and a version
-- of its own. Units move from share to share; the totals of the shares add up to `whole`.

-- An index of a million orders takes seconds to build.
set local statement_timeout = 0;

alter table coupons
    drop constraint coupons_pkey,
    add primary key (id, partition),
    -- the number of shares; never changes, because each user claims at one share for ever
    add column spread smallint not null default 1,
    -- the units of all shares; null for a coupon of one partition, whose total it would repeat
    add column whole bigint,
    add constraint coupons_spread_range check (spread between 1 and 64),
    add constraint coupons_whole check ((spread = 1) = (whole is null)),
    drop constraint coupons_total_range,
    -- a share may have given all of its units away
    add constraint coupons_total_range check (total between case when spread = 1 then 1 else 0 end and 1000000000),
    add constraint coupons_whole_range check (whole between 1 and 1000000000);

-- A share counts its own orders.
drop index orders_of_coupon;
create index orders_of_coupon on orders (coupon_id, id) include (status, partition);
