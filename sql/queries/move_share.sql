-- Moves units from one share of a coupon to another. They have left the first share's stock in Redis by `take.lua`, and reach
-- the other one by its publication. Moves nothing if `fenced`, as in record_orders.sql, or if the first share has another
-- version: then the take no longer counts.
-- $1 the partition that gives  $2 its epoch  $3 coupon id  $4 the version of the take  $5 the partition that gets  $6 units
with fence_up as (
    select 1 from fence
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity() and not postgres_lost
),
locked as (
    select c.partition, c.version
    from coupons c cross join fence_up
    where c.id = $3 and c.partition in ($1, $5)
    order by c.id, c.partition -- all transactions take row locks in one order, to avoid deadlocks
    for no key update of c
),
moved as (
    update coupons c set
        total = c.total + case when c.partition = $5 then $6::bigint else -$6::bigint end,
        stock = c.stock + case when c.partition = $5 then $6::bigint else -$6::bigint end,
        version = c.version + 1,
        changed_at = clock_timestamp()
    from locked l
    where c.id = $3 and c.partition = l.partition
        and exists (select 1 from locked where partition = $1 and version = $4)
        and (select count(*) from locked) = 2
    returning c.partition
)
select not exists (select 1 from fence_up) as fenced, (select count(*) from moved) = 2 as moved
