-- The part of the database alone.
update coupons set stock = stock - 1 where id = 'bench' and stock > 0;
