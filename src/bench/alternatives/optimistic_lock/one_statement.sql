-- The conditional update and the order in one statement: the row is locked during the flush, but not during a round trip.
\set n :n + 1
with u as (update coupons set stock = stock - 1 where id = 'bench' and stock > 0 returning 1)
insert into orders (id, coupon_id, user_id, status, claimed_at)
select (lpad(to_hex(:client_id::int + :ids::int), 8, '0') || lpad(to_hex(:n::bigint), 24, '0'))::uuid,
    'bench', 'user-' || :client_id::text || '-' || :n::text, 'confirmed', clock_timestamp()
from u;
