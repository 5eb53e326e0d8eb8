-- A definition has one content for each version, also where it is edited by hand: an update that changes it and not
-- its version gets the next one, and is published like any edit. A hand that moves the total and leaves the stock
-- means to sell more or fewer units: the stock moves along. The program's own edits name their version.
-- The comparison is in the body: a condition or a list of columns would keep these from being retyped.
create function coupons_next_version() returns trigger
    language plpgsql
as $$
begin
    if new.version = old.version
        and (new.title, new.total, new.starts_at, new.ends_at, new.paused, new.per_user_limit,
             new.reserve_seconds, new.unlisted)
            is distinct from
            (old.title, old.total, old.starts_at, old.ends_at, old.paused, old.per_user_limit,
             old.reserve_seconds, old.unlisted)
    then
        new.version := greatest(old.version, old.published_version) + 1;
        new.changed_at := clock_timestamp();
        if new.stock = old.stock then
            new.stock := old.stock + new.total - old.total;
        end if;
    end if;
    return new;
end
$$;

create trigger coupons_next_version before update on coupons
    for each row execute function coupons_next_version();
