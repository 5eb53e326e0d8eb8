-- Confirm.
with o as (
    update orders set status = 'confirmed', confirmed_at = clock_timestamp()
    where id = (lpad(to_hex(:client_id::int + :ids::int), 8, '0') || lpad(to_hex(:n::bigint), 24, '0'))::uuid
        and status = 'reserved' and reserved_until > clock_timestamp()
    returning coupon_id
)
update coupons c set frozen = c.frozen - 1 from o where c.id = o.coupon_id;
