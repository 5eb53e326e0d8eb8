-- Inserts a coupon that only Redis has, and returns its total. The total is raised to the number of live orders if
-- orders of a coupon whose row was deleted are live.
-- $1 id  $2 title  $3 total  $4 starts at  $5 ends at  $6 paused  $7 limit for each user  $8 reserve seconds  $9 durability
-- $10 waitlist  $11 unlisted  $12 version  $13 partition  $14 spread  $15 whole, or null
insert into coupons (
    id, title, total, stock, starts_at, ends_at, paused, per_user_limit, reserve_seconds, durability,
    waitlist, unlisted, version, partition, spread, whole
)
select $1, $2, greatest($3, live), greatest($3, live) - live, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15
from (
    select count(*) as live from orders where coupon_id = $1 and partition = $13 and status in ('reserved', 'confirmed')
) as rows
returning total
