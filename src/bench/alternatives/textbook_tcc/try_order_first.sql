-- Try: inserts the order first, so that the row is locked for a shorter time. The constraint on the stock refuses claims
-- after the last unit.
\set n :n + 1
with o as (
    insert into orders (id, coupon_id, user_id, status, claimed_at, reserved_until)
    values (
        (lpad(to_hex(:client_id::int + :ids::int), 8, '0') || lpad(to_hex(:n::bigint), 24, '0'))::uuid,
        'bench', 'user-' || :client_id::text || '-' || :n::text, 'reserved', clock_timestamp(),
        clock_timestamp() + interval '15 minutes'
    )
    returning coupon_id
)
update coupons c set stock = c.stock - 1, frozen = c.frozen + 1 from o where c.id = o.coupon_id;
