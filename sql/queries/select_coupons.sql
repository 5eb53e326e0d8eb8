-- Reads coupons; the program appends `where` and `order by`. Each column is cast to the type that the program decodes,
-- so that a later schema may change its type. Times outside the program's range (also `infinity`) are moved into it.
select id::text, partition::smallint, title::text, total::bigint, spread::smallint, whole::bigint,
       case when starts_at is not null
           then least(greatest(starts_at::timestamptz, '1970-01-01 00:00:01+00'), '9999-12-31 23:59:59+00')
       end as starts_at,
       case when ends_at is not null
           then least(greatest(ends_at::timestamptz, '1970-01-01 00:00:01+00'), '9999-12-31 23:59:59+00')
       end as ends_at,
       paused::boolean, per_user_limit::smallint, reserve_seconds::integer, durability::text,
       waitlist::boolean, unlisted::boolean, version::bigint, published_version::bigint, stock::bigint, changed_at::timestamptz,
       has_ended_orders::boolean, returned::bigint
from coupons
