-- Ends a confirmed order, and returns its id. Its unit returns to stock, or is withdrawn. A withdrawn unit lowers the
-- total by one under a new version. The outbox row names that version: the unit is released in Redis only after Redis
-- has the lower total. The caller has locked the order's row in an earlier statement. Ends nothing if `fenced`, as
-- in record_orders.sql.
-- $1 partition  $2 epoch  $3 order id  $4 reason  $5 1 if the unit is withdrawn, 0 if it returns to stock
with fence_up as (
    select clock_timestamp() as now from fence
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity() and not postgres_lost
),
revoked as (
    update orders o set status = 'cancelled', ended_at = f.now, reason = $4
    from fence_up f
    where o.id = $3 and o.status = 'confirmed'
    returning o.id, o.coupon_id, o.user_id, o.slot
),
coupon as (
    update coupons c set
        total = c.total - $5,
        stock = c.stock + 1 - $5,
        version = c.version + $5,
        has_ended_orders = true,
        changed_at = clock_timestamp()
    from revoked r
    where c.id = r.coupon_id
    returning c.id, c.version
),
outbox_row as (
    insert into outbox (order_id, coupon_id, user_id, slot, after_version)
    select r.id, r.coupon_id, r.user_id, r.slot, case when $5 = 1 then c.version end
    from revoked r join coupon c on c.id = r.coupon_id
    on conflict (order_id) do nothing
)
select not exists (select 1 from fence_up) as fenced,
       coalesce((select array_agg(id) from revoked), '{}') as changed
