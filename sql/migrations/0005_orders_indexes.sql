-- One index less to write for each order, a fifth of what an insert costs: with the user in front, the index
-- that holds the limit lists a buyer's live orders as well, and those that have ended get an index of their own.

-- A million orders take seconds to sort.
set local statement_timeout = 0;

drop index orders_one_live_per_slot, orders_of_user, orders_of_coupon;

create unique index orders_one_live_per_slot on orders (user_id, coupon_id, slot)
    where status in ('reserved', 'confirmed');
create index orders_ended_of_user on orders (user_id, id)
    where status not in ('reserved', 'confirmed');
-- Counts live orders without a look at their rows.
create index orders_of_coupon on orders (coupon_id, id) include (status);
