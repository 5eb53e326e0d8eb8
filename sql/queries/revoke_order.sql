-- Ends a confirmed order, and returns its id. Its unit returns to stock, or is withdrawn. A withdrawn unit lowers the
-- total by one under a new version. The outbox row names that version: the unit is released in Redis only after Redis
-- has the lower total. The caller has locked the order's row in an earlier statement. Ends nothing if `fenced`, as
-- in confirm_orders.sql.
-- $1 partition  $2 epoch  $3 WAL position  $4 order id  $5 reason
-- $6 1 if the unit is withdrawn, 0 if it returns to stock
with fence_up as (
    select clock_timestamp() as now from fence
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity() and not postgres_lost
      and durable_lsn() collate "C" >= $3
),
revoked as (
    update orders o set status = 'cancelled', ended_at = f.now, reason = $5
    from fence_up f
    where o.id = $4 and o.partition = $1 and o.status = 'confirmed'
    returning o.id, o.coupon_id, o.user_id, o.slot
),
locked as (
    select c.id, c.partition
    from coupons c join revoked r on c.id = r.coupon_id
    -- the other shares learn the lower whole
    where c.partition = $1 or $6 = 1
    order by c.id, c.partition -- all transactions take row locks in one order, to avoid deadlocks
    for no key update of c
),
coupon as (
    update coupons c set
        total = c.total - case when c.partition = $1 then $6 else 0 end,
        stock = c.stock + case when c.partition = $1 then 1 - $6 else 0 end,
        returned = c.returned + case when c.partition = $1 then 1 - $6 else 0 end,
        whole = c.whole - $6,
        version = c.version + $6,
        has_ended_orders = true,
        changed_at = clock_timestamp()
    from locked l
    where c.id = l.id and c.partition = l.partition
    returning c.id, c.partition, c.version
),
outbox_row as (
    insert into outbox (order_id, partition, coupon_id, user_id, slot, after_version)
    select r.id, $1, r.coupon_id, r.user_id, r.slot, case when $6 = 1 then c.version end
    from revoked r join coupon c on c.id = r.coupon_id and c.partition = $1
    on conflict (order_id) do nothing
)
select not exists (select 1 from fence_up) as fenced,
       coalesce((select array_agg(id) from revoked), '{}') as changed
