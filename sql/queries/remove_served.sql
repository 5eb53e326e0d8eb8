-- Reads a page of old rows of waiting lists, and removes those whose users were served long ago. Returns the last order of
-- the page; no row for an empty page.
-- $1 read orders after this one  $2 and before this one  $3 rows of a page  $4 how long a served user's row stays, seconds
with page as (
    select order_id from waitlist where order_id > $1 and order_id < $2 order by order_id limit $3
),
removed as (
    delete from waitlist w using page p, orders o
    where w.order_id = p.order_id and o.id = p.order_id
        and o.recorded_at < clock_timestamp() - make_interval(secs => $4)
)
select order_id::uuid from page order by order_id desc limit 1
