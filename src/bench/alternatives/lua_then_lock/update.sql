-- Only the part of the scheme that runs in Postgres.
update coupons set stock = stock - 1 where id = 'bench' and stock > 0;
