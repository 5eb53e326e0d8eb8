-- Confirms reserved orders in time, and returns their ids. The caller has locked the rows in an earlier statement: this
-- statement compares the deadline with its own time and stores the same time. Confirms nothing if `fenced`: if the fence
-- row has another epoch or names another Postgres, or if this Postgres is behind the WAL position that Redis has
-- recorded, because an older copy may have lost the end of an order.
-- $1 partition  $2 epoch  $3 WAL position  $4 order ids  $5 the user who asks, for each order; null for the admin
with fence_up as (
    select clock_timestamp() as now from fence
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity() and not postgres_lost
      and durable_lsn() collate "C" >= $3
),
due as materialized (
    select o.id, f.now
    from unnest($4::uuid[], $5::text[]) as asked (id, user_id)
    -- `offset 0` keeps the lookup by id: a plan for few reserved orders would compare all of them with all asked ones
    cross join lateral (select * from orders where id = asked.id offset 0) o
    cross join fence_up f
    where o.partition = $1 and o.user_id = coalesce(asked.user_id, o.user_id) and o.status = 'reserved' and o.reserved_until > f.now
),
confirmed as (
    update orders o set status = 'confirmed', confirmed_at = d.now
    from due d
    where o.id = d.id
    returning o.id
)
select not exists (select 1 from fence_up) as fenced,
       coalesce((select array_agg(id) from confirmed), '{}') as changed
