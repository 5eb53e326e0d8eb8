-- One statement instead of begin, select, update and commit. The search starts after the last unit that this client
-- bought; otherwise it reads the dead index entries of all units sold so far. If no unit is left after it, the next search
-- starts at the first unit. Each client starts `share` units after the previous client.
\set n :n + 1
\if :behind < 0
\set behind :client_id * :share
\endif
with free as (
    select id from units where coupon_id = 'bench' and id > :behind and order_id is null
    order by id limit 1
    for update skip locked
), sold as (
    update units u
    set order_id = (lpad(to_hex(:client_id::int + :ids::int), 8, '0') || lpad(to_hex(:n::bigint), 24, '0'))::uuid,
        user_id = 'user-' || :client_id::text || '-' || :n::text, claimed_at = clock_timestamp()
    from free where u.id = free.id
    returning u.id
)
select coalesce(max(id), 0) as behind from sold \gset
