-- Removes the rows of a user who leaves, unless the user got the order. Also those of requests that died.
-- Removes nothing if the fence's epoch is not $2, if this is not the Postgres of that epoch, or if commits are lost.
-- $1 partition  $2 epoch  $3 coupon id  $4 user id  $5 ids of the orders that the user holds
delete from waitlist w using fence f
where f.partition = $1 and f.epoch = $2 and f.postgres_identity = postgres_identity() and not f.postgres_lost
    and w.coupon_id = $3 and w.user_id = $4 and w.order_id <> all($5::uuid[])
    and not exists (select 1 from orders o where o.id = w.order_id)
