//! The migrations: each file is found and run once, and only one process runs them at a time.

use std::fs;
use std::path::Path;

use seckill::postgres::Postgres;
use sqlx::AssertSqlSafe;
use support::until;

use crate::harness::{Database, sql_files};

#[test]
fn the_two_recording_statements_differ_only_in_their_conflict_clause() {
    let statement = |file: &str| -> Vec<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/queries").join(file);
        let text = fs::read_to_string(path).unwrap();
        let code = text.lines().map(|line| line.split("--").next().unwrap().trim_end().to_owned());
        code.filter(|line| !line.is_empty()).collect()
    };
    let (any, new) = (statement("record_orders.sql"), statement("record_new_orders.sql"));
    let (clauses, rest): (Vec<String>, Vec<String>) =
        any.into_iter().partition(|line| line.trim() == "on conflict do nothing");
    assert_eq!(clauses.len(), 1, "record_orders.sql has one conflict clause");
    assert_eq!(rest, new, "record_new_orders.sql is record_orders.sql without its conflict clause");
}

#[test]
fn every_migration_is_found_by_its_name() {
    // sqlx ignores a file whose name has another form.
    let mut last = 0;
    for file in sql_files("sql/migrations") {
        let name = file.file_name().unwrap().to_str().unwrap();
        let number = name.split_once('_').filter(|(number, _)| number.len() == 4);
        let number: u32 = number.and_then(|(number, _)| number.parse().ok()).unwrap_or_default();
        let is_sql = file.extension().is_some_and(|extension| extension == "sql");
        assert!(number > last && is_sql, "{name} is no migration after {last:04}");
        last = number;
    }
}

/// Everything that a migration could change, as text.
async fn shape(database: &Database) -> Vec<String> {
    let columns = "select table_name || '.' || column_name || ' ' || data_type || ' ' || coalesce(column_default, '')
        from information_schema.columns where table_schema = current_schema()
        union all select indexdef from pg_indexes where schemaname = current_schema()
        union all select conname || ' ' || pg_get_constraintdef(oid) from pg_constraint where connamespace = current_schema()::regnamespace
        union all select proname || ' ' || prosrc from pg_proc where pronamespace = current_schema()::regnamespace
        union all select version || ' ' || installed_on || ' ' || encode(checksum, 'hex') from _sqlx_migrations
        union all select epoch from fence
        order by 1";
    sqlx::query_scalar(columns).fetch_all(&database.postgres.pool).await.unwrap()
}

#[tokio::test]
async fn a_second_migration_changes_nothing() {
    let database = Database::new("twice").await;
    let before = shape(&database).await;
    assert!(before.iter().any(|line| line.contains("orders_one_live_per_slot")), "{before:#?}");
    let again = Postgres::new(&database.cluster.url, "twice").unwrap();
    again.prepare().await.unwrap();
    again.close().await;
    assert_eq!(shape(&database).await, before);
}

#[tokio::test]
async fn processes_that_start_together_migrate_once() {
    for round in 0..5 {
        let schema = format!("together_{round}");
        let first = Database::bare(&schema);
        let others: Vec<Postgres> =
            (0..3).map(|_| Postgres::new(&first.cluster.url, &schema).unwrap()).collect();
        let outcomes = tokio::join!(
            first.postgres.prepare(),
            others[0].prepare(),
            others[1].prepare(),
            others[2].prepare()
        );
        for outcome in [outcomes.0, outcomes.1, outcomes.2, outcomes.3] {
            outcome.unwrap();
        }
        let migrations = i64::try_from(sql_files("sql/migrations").len()).unwrap();
        assert_eq!(first.number("select count(*) from _sqlx_migrations").await, migrations);
        assert_eq!(first.number("select count(*) from fence").await, 1);
    }
}

/// The first migration on a slow disk may take longer than the lock timeout of all other statements.
#[tokio::test]
async fn a_migration_waits_for_another_one_longer_than_for_a_lock() {
    let database = Database::bare("slow_migration");
    let other = Database::new("beside_slow_migration").await;
    let lock = |function: &str| format!("select {function}(hashtextextended('slow_migration/schema', 0))");
    let mut migrating = other.postgres.dedicated().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(lock("pg_advisory_lock"))).execute(&mut migrating).await.unwrap();

    let release = async {
        let too_long = "select count(*) from pg_stat_activity where wait_event = 'advisory'
            and query like '%/schema%' and now() - query_start > interval '2.2 s'";
        until("the migration waits longer than for a lock", async || {
            (other.number(too_long).await > 0).then_some(())
        })
        .await;
        sqlx::raw_sql(AssertSqlSafe(lock("pg_advisory_unlock"))).execute(&mut migrating).await.unwrap();
    };
    let (prepared, ()) = tokio::join!(database.postgres.prepare(), release);
    prepared.unwrap();
}
