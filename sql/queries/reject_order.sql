-- Ends an order event as a rejected order with its dead letter, and puts its unit into the outbox. Writes nothing if
-- the order has a row already, or if `fenced`, as in record_orders.sql.
-- $1 partition  $2 epoch  $3 order id  $4 coupon id  $5 user id  $6 claim time
-- $7 entry id  $8 fields  $9 error  $10 deliveries  $11 whether a rebuild runs it: also on a Postgres that lost commits
-- $12 slot  $13 Idempotency-Key or null
with fence_up as (
    select 1 from fence
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity() and (not postgres_lost or $11)
),
rejected as (
    insert into orders (id, partition, coupon_id, user_id, slot, idempotency_key, status, claimed_at, ended_at, reason)
    select $3, $1, $4, $5, $12, $13, 'rejected', $6, clock_timestamp(), $9 from fence_up
    on conflict (id) do nothing
    returning id, coupon_id, user_id, slot
),
letter as (
    insert into dead_letters (partition, entry_id, order_id, fields, error, deliveries)
    select $1, $7, id, $8, $9, $10 from rejected
    on conflict (partition, entry_id) do nothing
),
unit as (
    insert into outbox (order_id, partition, coupon_id, user_id, slot)
    select r.id, $1, r.coupon_id, r.user_id, r.slot
    from rejected r
    where exists (select 1 from coupons c where c.id = r.coupon_id and c.partition = $1) -- otherwise Redis has no stock for the unit
    on conflict (order_id) do nothing
)
select not exists (select 1 from fence_up) as fenced, exists (select 1 from rejected) as rejected
