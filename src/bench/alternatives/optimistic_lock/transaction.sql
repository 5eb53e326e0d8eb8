-- The usual four statements: the row is locked during two more round trips. If the update returns no row, the client
-- stops, and Postgres rolls its transaction back.
\set n :n + 1
begin;
update coupons set stock = stock - 1 where id = 'bench' and stock > 0 returning stock as left \gset
insert into orders (id, coupon_id, user_id, status, claimed_at)
values (
    (lpad(to_hex(:client_id::int + :ids::int), 8, '0') || lpad(to_hex(:n::bigint), 24, '0'))::uuid,
    'bench', 'user-' || :client_id::text || '-' || :n::text, 'confirmed', clock_timestamp()
);
commit;
