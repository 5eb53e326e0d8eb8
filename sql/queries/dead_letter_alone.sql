-- Inserts only a dead letter, for an entry that cannot become an order row. One entry has one dead letter. Writes
-- nothing if `fenced`, as in record_orders.sql.
-- $1 partition  $2 epoch  $3 entry id  $4 fields  $5 error  $6 deliveries  $7 order id, or null if it cannot be read
with fence_up as (
    select 1 from fence
    where partition = $1 and epoch = $2 and postgres_identity = postgres_identity() and not postgres_lost
),
letter as (
    insert into dead_letters (partition, entry_id, order_id, fields, error, deliveries)
    select $1, $3, $7, $4, $5, $6 from fence_up
    on conflict (partition, entry_id) do nothing
    returning id
)
select not exists (select 1 from fence_up) as fenced, exists (select 1 from letter) as inserted
