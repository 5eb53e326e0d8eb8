-- Try: the conditional update and the order in one statement.
\set n :n + 1
with u as (
    update coupons set stock = stock - 1, frozen = frozen + 1 where id = 'bench' and stock > 0 returning 1
)
insert into orders (id, coupon_id, user_id, status, claimed_at, reserved_until)
select (lpad(to_hex(:client_id::int + :ids::int), 8, '0') || lpad(to_hex(:n::bigint), 24, '0'))::uuid,
    'bench', 'user-' || :client_id::text || '-' || :n::text, 'reserved', clock_timestamp(),
    clock_timestamp() + interval '15 minutes'
from u;
