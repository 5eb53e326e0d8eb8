-- Confirms reserved orders in time, and returns their ids. The caller has locked the rows in an earlier statement: this
-- statement compares the deadline with its own time and stores the same time. Confirms nothing if `fenced`, as in
-- record_orders.sql.
-- $1 partition  $2 epoch  $3 order ids  $4 the user who asks, for each order; null for the admin
with fence_up as (
    select clock_timestamp() as now from fence
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity() and not postgres_lost
),
asked as (
    select * from unnest($3::uuid[], $4::text[]) as a (id, user_id)
),
confirmed as (
    update orders o set status = 'confirmed', confirmed_at = f.now
    from asked a cross join fence_up f
    where o.id = a.id and o.user_id = coalesce(a.user_id, o.user_id)
        and o.status = 'reserved' and o.reserved_until > f.now
    returning o.id
)
select not exists (select 1 from fence_up) as fenced,
       coalesce((select array_agg(id) from confirmed), '{}') as changed
