-- Expires reserved orders whose time to pay is over: ends them, returns their units to the stock in Postgres and puts
-- them into the outbox. The caller has locked the orders. Writes nothing if `fenced`, as in record_orders.sql, or if this
-- Postgres is behind the WAL position that Redis has recorded: an older copy may have lost the confirmation of an order.
-- $1 partition  $2 epoch  $3 WAL position  $4 order ids
with fence_up as (
    select clock_timestamp() as ended_at from fence
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity() and not postgres_lost
      and durable_lsn() collate "C" >= $3
),
expired as (
    update orders o set status = 'expired', ended_at = f.ended_at
    from fence_up f
    where o.id = any($4::uuid[]) and o.status = 'reserved' and o.reserved_until <= f.ended_at
    returning o.id, o.coupon_id, o.user_id, o.slot
),
returning_units as (
    select coupon_id, count(*) as units from expired group by coupon_id
),
locked as (
    select c.id, r.units
    from coupons c join returning_units r on r.coupon_id = c.id
    order by c.id -- all transactions take row locks in one order, to avoid deadlocks
    for no key update of c
),
returned as (
    update coupons c set stock = c.stock + l.units
    from locked l
    where c.id = l.id
),
waiting as (
    insert into outbox (order_id, coupon_id, user_id, slot)
    select id, coupon_id, user_id, slot from expired
)
select not exists (select 1 from fence_up) as fenced, (select count(*) from expired) as expired
