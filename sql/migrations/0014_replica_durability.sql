-- A claim may also be answered when a replica of Redis has it.
alter table coupons
    drop constraint coupons_durability,
    add constraint coupons_durability check (durability in ('redis', 'replica', 'postgres'));
