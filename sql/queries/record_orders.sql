-- Inserts order events as orders, except those whose order has a row already, whose user has another live order in the
-- same slot or with the same key, whose slot is above the coupon's limit for each user, or whose coupon belongs to another
-- partition.
-- Inserts nothing if the fence's epoch is not $2, if this is not the Postgres of that epoch, or if commits are lost;
-- then `fenced` is true. `only` has the inserted ids, or null if all were inserted.
-- record_new_orders.sql is the same statement without `on conflict`; a test compares the two.
-- $1 partition  $2 epoch  $3 order ids  $4 coupon ids  $5 user ids  $6 claim times  $7 slots  $8 Idempotency-Keys or nulls
with fence_up as (
    select clock_timestamp() as recorded_at from fence
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity() and not postgres_lost
),
event as (
    select * from unnest($3::uuid[], $4::text[], $5::text[], $6::timestamptz[], $7::smallint[], $8::text[])
        as e (id, coupon_id, user_id, claimed_at, slot, idempotency_key)
),
inserted as (
    insert into orders (id, partition, coupon_id, user_id, slot, idempotency_key, status, claimed_at, recorded_at,
        reserved_until)
    select e.id, c.partition, e.coupon_id, e.user_id, e.slot, e.idempotency_key,
           case when c.reserve_seconds is null then 'confirmed' else 'reserved' end,
           e.claimed_at, f.recorded_at,
           -- the time to pay starts when the order can be paid
           f.recorded_at + make_interval(secs => c.reserve_seconds)
    from event e
    join coupons c on c.id = e.coupon_id and c.partition = $1 and c.per_user_limit >= e.slot
    cross join fence_up f
    order by e.id -- all workers take row locks in one order, to avoid deadlocks
    on conflict do nothing
    returning id
),
counted as (
    select count(*) as orders from inserted
)
select not exists (select 1 from fence_up) as fenced,
       -- null in the usual case: returning all ids would take a quarter of the statement's time
       case when c.orders < cardinality($3) then coalesce((select array_agg(id) from inserted), '{}') end as only
from counted c
