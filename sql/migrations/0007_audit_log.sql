-- Which admin changed what, and when. Each change inserts its row in its own transaction, so that neither
-- exists without the other. Rows are never removed: admins make few changes, so no retention job exists. A job
-- would drop the trigger, delete and create the trigger again in one transaction.

create table audit_log (
    id         bigint      generated always as identity primary key,
    at         timestamptz not null default clock_timestamp(),
    -- the name of the admin's token, or `system` for a change that the program itself decided
    actor      text        not null,
    action     text        not null,
    coupon_id  text        collate "C",
    order_id   uuid,
    -- `x-request-id` of the request; null where no request asked for the change
    request_id text,
    -- the changed fields before and after
    old        jsonb,
    new        jsonb
);

create index audit_log_of_coupon on audit_log (coupon_id, id) where coupon_id is not null;
create index audit_log_of_order on audit_log (order_id, id) where order_id is not null;

create function refuse_change_of_audit_log() returns trigger
    language plpgsql as
$$
begin
    raise exception 'audit_log is append-only: % is refused', lower(tg_op)
        using errcode = 'restrict_violation', constraint = 'audit_log_append_only';
end
$$;

create trigger audit_log_append_only
    before update or delete or truncate on audit_log
    for each statement execute function refuse_change_of_audit_log();

-- Also in a session with `session_replication_role = replica`, where ordinary triggers do not fire.
alter table audit_log enable always trigger audit_log_append_only;
