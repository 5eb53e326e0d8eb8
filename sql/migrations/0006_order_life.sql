-- The life of an order after its recording: reserved until a time, then confirmed, cancelled or expired.

alter table orders rename column expires_at to reserved_until;
alter table orders
    add column confirmed_at timestamptz,
    add column ended_at     timestamptz,
    -- of a rejection or a revocation
    add column reason       text;

update orders o set ended_at = o.recorded_at, reason = d.error
from dead_letters d
where d.order_id = o.id and o.status = 'rejected';

-- The sweeper reads the orders whose time to pay is over, oldest first.
create index orders_reserved_until on orders (reserved_until) where status = 'reserved';

-- The unit is released only after Redis has this version of the coupon: the edit that withdrew the unit.
alter table outbox add column after_version bigint;
