-- Why events were not inserted: `recorded` if the order has a row already; not `coupon_known` if Postgres has no such
-- coupon; in all other cases another live order of the user has the slot or the key, the slot is above the limit, or
-- the coupon belongs to another partition.
-- $1 order ids  $2 coupon ids
select e.id,
       o.id is not null as recorded,
       exists (select 1 from coupons c where c.id = e.coupon_id) as coupon_known
from unnest($1::uuid[], $2::text[]) as e (id, coupon_id)
left join orders o on o.id = e.id
