-- A partition is one set of Redis keys, with a row of its own in `fence`. A coupon belongs to one partition for ever. What
-- existed before belongs to partition 0.

-- An index of a million reserved orders takes seconds to build.
set local statement_timeout = 0;

alter table coupons      add column partition smallint not null default 0;
alter table orders       add column partition smallint not null default 0;
alter table outbox       add column partition smallint not null default 0;
alter table dead_letters add column partition smallint not null default 0;

-- Two streams can have the same entry id.
alter table dead_letters drop constraint dead_letters_one_per_entry;
alter table dead_letters add constraint dead_letters_one_per_entry unique (partition, entry_id);

-- The sweeper of one partition does not read the reserved orders of another, whose fence may be down for hours.
drop index orders_reserved_until;
create index orders_reserved_until on orders (partition, reserved_until) include (coupon_id) where status = 'reserved';
