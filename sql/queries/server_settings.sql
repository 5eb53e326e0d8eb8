-- Version and settings of the server, as a new session without its own settings has them; connections and clock.
select current_setting('server_version_num')::int as version_number,
       split_part(current_setting('server_version'), ' ', 1) as version,
       pg_is_in_recovery() as in_recovery,
       current_setting('fsync') as fsync,
       current_setting('full_page_writes') as full_page_writes,
       current_setting('synchronous_commit') as synchronous_commit,
       current_setting('max_connections')::int as max_connections,
       (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections,
       current_setting('superuser_reserved_connections')::int as reserved_connections,
       (select count(*) from pg_stat_activity where application_name = 'seckill comparisons') as processes,
       (select count(*) from pg_stat_activity where backend_type = 'client backend'
            and coalesce(application_name, '') not in ('seckill', 'seckill comparisons')) as other_connections,
       current_setting('synchronous_standby_names') as synchronous_standby_names,
       (select count(*) from pg_stat_replication) as standbys,
       has_function_privilege('pg_read_file(text)', 'execute') as may_read_history,
       current_user::text as role,
       (extract(epoch from clock_timestamp()) * 1000)::bigint as now_ms
