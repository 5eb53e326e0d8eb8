-- Adds users to the waiting lists of coupons, and removes their older rows: the users are not in line, so a request that
-- died has left these rows. Returns whether it was done: not if the fence's epoch is not $2, if this is not the Postgres
-- of that epoch, or if commits are lost.
-- $1 partition  $2 epoch  $3 order ids  $4 coupon ids  $5 user ids  $6 Idempotency-Keys or nulls
-- $7 age in seconds from which a row cannot belong to a request that runs
with fence_up as (
    select 1 from fence
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity() and not postgres_lost
),
asked as (
    select a.* from unnest($3::uuid[], $4::text[], $5::text[], $6::text[])
        with ordinality as a (order_id, coupon_id, user_id, key, n)
    cross join fence_up
),
without_place as (
    delete from waitlist w using asked a
    where w.coupon_id = a.coupon_id and w.user_id = a.user_id
        and w.joined_at < clock_timestamp() - make_interval(secs => $7)
        and not exists (select 1 from orders o where o.id = w.order_id)
),
added as (
    insert into waitlist (order_id, coupon_id, user_id, idempotency_key)
    select order_id, coupon_id, user_id, key from asked order by n
    on conflict (order_id) do nothing
)
select exists (select 1 from fence_up)
