-- Cancels reserved orders in time, returns their units to the stock in Postgres and puts them into the outbox. Returns
-- the ids of the cancelled orders.
-- The caller has locked the rows of the orders in an earlier statement. Cancels nothing if `fenced`, as in
-- record_orders.sql.
-- $1 partition  $2 epoch  $3 order ids  $4 the user who asks, for each order; null for the admin
with fence_up as (
    select clock_timestamp() as now from fence
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity() and not postgres_lost
),
asked as (
    select * from unnest($3::uuid[], $4::text[]) as a (id, user_id)
),
cancelled as (
    update orders o set status = 'cancelled', ended_at = f.now
    from asked a cross join fence_up f
    where o.id = a.id and o.user_id = coalesce(a.user_id, o.user_id)
        and o.status = 'reserved' and o.reserved_until > f.now
    returning o.id, o.coupon_id, o.user_id, o.slot
),
returned as (
    select coupon_id, count(*) as units from cancelled group by coupon_id
),
locked as (
    select c.id, r.units
    from coupons c join returned r on r.coupon_id = c.id
    order by c.id -- all transactions take row locks in one order, to avoid deadlocks
    for no key update of c
),
stock as (
    update coupons c set stock = c.stock + l.units
    from locked l
    where c.id = l.id
),
outbox_rows as (
    insert into outbox (order_id, coupon_id, user_id, slot)
    select id, coupon_id, user_id, slot from cancelled
    on conflict (order_id) do nothing
)
select not exists (select 1 from fence_up) as fenced,
       coalesce((select array_agg(id) from cancelled), '{}') as changed
