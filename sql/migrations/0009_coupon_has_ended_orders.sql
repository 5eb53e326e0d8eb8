-- Whether an order of the coupon was ever revoked, or cancelled after lost commits: then a user who holds a unit may hold
-- it for an order that has ended, although the coupon's orders do not expire.
alter table coupons add column has_ended_orders boolean not null default false;
