-- Inserts order events as orders. Writes nothing where the fence's epoch is no longer the workers' one
-- or this is not the Postgres of that epoch; `fenced` says so. `only` has the ids that were inserted, where some
-- were not.
-- $1 partition  $2 epoch  $3 order ids  $4 coupon ids  $5 user ids  $6 claim times
with fence_up as (
    select 1 from fence
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity() and not postgres_lost
),
event as (
    select * from unnest($3::uuid[], $4::text[], $5::text[], $6::timestamptz[]) as e (id, coupon_id, user_id, claimed_at)
),
inserted as (
    insert into orders (id, coupon_id, user_id, status, claimed_at, expires_at)
    select e.id, e.coupon_id, e.user_id,
           case when c.reserve_seconds is null then 'confirmed' else 'reserved' end,
           e.claimed_at,
           e.claimed_at + make_interval(secs => c.reserve_seconds)
    from event e
    join coupons c on c.id = e.coupon_id
    cross join fence_up
    order by e.id -- one order of row locks for all workers, or they deadlock
    on conflict do nothing
    returning id
),
counted as (
    select count(*) as orders from inserted
)
select not exists (select 1 from fence_up) as fenced,
       -- null where it was all of them, as almost always: their ids would cost a quarter of the statement
       case when c.orders < cardinality($3) then coalesce((select array_agg(id) from inserted), '{}') end as only
from counted c
