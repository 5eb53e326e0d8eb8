-- Takes the units of newly inserted orders from stock. Returns the ids of the coupons that had enough.
-- $1 partition  $2 coupon ids  $3 units
with wanted as (
    select * from unnest($2::text[], $3::bigint[]) as w (id, units)
),
locked as (
    select c.id, w.units
    from coupons c join wanted w on w.id = c.id
    where c.partition = $1 and c.stock >= w.units
    order by c.id -- all workers take row locks in one order, to avoid deadlocks
    for no key update of c
)
update coupons c set stock = c.stock - l.units
from locked l
where c.id = l.id and c.partition = $1
returning c.id
