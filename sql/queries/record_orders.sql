-- Inserts order events as orders. Writes nothing where the fence's epoch is no longer the workers' one
-- or this is not the Postgres of that epoch; `fenced` says so.
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
    returning id, status, recorded_at
)
select not exists (select 1 from fence_up) as fenced,
       i.id, i.status, i.recorded_at
from (select) as always
left join inserted i on true
