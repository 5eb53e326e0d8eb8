-- Sets one share of a coupon to the next version of its definition, if it has the version that the edit was made from and, for
-- a share from which units were taken, if the take still counts, as in move_share.sql.
-- $1 coupon id  $2 partition  $3 version  $4 title  $5 total  $6 starts at  $7 ends at  $8 paused  $9 whole
-- $10 the partition's epoch at the take; null if nothing was taken
update coupons set title = $4, stock = stock + ($5 - total), total = $5, starts_at = $6, ends_at = $7, paused = $8, whole = $9,
    version = version + 1, changed_at = clock_timestamp()
where id = $1 and partition = $2 and version = $3
    and ($10::text is null or exists (
        select 1 from fence
        where partition = $2 and epoch = $10 and postgres_identity = postgres_identity() and not postgres_lost
    ))
