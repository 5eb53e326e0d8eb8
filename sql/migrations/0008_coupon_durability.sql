-- Which store must have a claim of the coupon when it is answered: Redis in its append-only file, or Postgres as the
-- order's row. Coupons that exist have promised the former.
alter table coupons
    add column durability text not null default 'redis'
        constraint coupons_durability check (durability in ('redis', 'postgres'));
