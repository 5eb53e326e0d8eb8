-- Ends reserved orders, returns their units to the stock in Postgres and puts them into the outbox: cancels the orders
-- that are in time, or expires those whose time to pay is over. Returns their ids. The caller has locked the rows of the
-- orders in an earlier statement. Ends nothing if `fenced`, as in confirm_orders.sql.
-- $1 partition  $2 epoch  $3 WAL position  $4 order ids
-- $5 the user who asks, for each order; null for the admin and the sweeper  $6 cancelled or expired
with fence_up as (
    select clock_timestamp() as now from fence
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity() and not postgres_lost
      and durable_lsn() collate "C" >= $3
),
due as materialized (
    select o.id, f.now
    from unnest($4::uuid[], $5::text[]) as asked (id, user_id)
    -- `offset 0` keeps the lookup by id, as in confirm_orders.sql
    cross join lateral (select * from orders where id = asked.id offset 0) o
    cross join fence_up f
    where o.partition = $1 and o.user_id = coalesce(asked.user_id, o.user_id) and o.status = 'reserved'
        and (o.reserved_until <= f.now) = ($6 = 'expired')
),
ended as (
    update orders o set status = $6, ended_at = d.now
    from due d
    where o.id = d.id
    returning o.id, o.coupon_id, o.user_id, o.slot
),
returned as (
    select coupon_id, count(*) as units from ended group by coupon_id
),
locked as (
    select c.id, r.units
    from coupons c join returned r on r.coupon_id = c.id and c.partition = $1
    order by c.id -- all transactions take row locks in one order, to avoid deadlocks
    for no key update of c
),
stock as (
    update coupons c set stock = c.stock + l.units, returned = c.returned + l.units
    from locked l
    where c.id = l.id and c.partition = $1
),
outbox_rows as (
    insert into outbox (order_id, partition, coupon_id, user_id, slot)
    select id, $1, coupon_id, user_id, slot from ended
    on conflict (order_id) do nothing
)
select not exists (select 1 from fence_up) as fenced,
       coalesce((select array_agg(id) from ended), '{}') as changed
