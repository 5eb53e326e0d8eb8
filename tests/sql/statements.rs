//! The prepared statements: each one fits the schema, and a statement that a session has lost is prepared again.

use std::fs;

use seckill::postgres::{PostgresError, coupons, orders};
use sqlx::AssertSqlSafe;

use crate::harness::{Database, sql_files};

#[tokio::test]
async fn every_statement_fits_the_migrated_schema() {
    let database = Database::new("statements").await;
    let files = sql_files("sql/queries");
    assert!(files.len() >= 5, "{files:?}");
    let mut connection = database.postgres.dedicated().await.unwrap();
    for file in files {
        let statement = fs::read_to_string(&file).unwrap();
        let prepare = format!("prepare statement as {statement}; deallocate statement");
        let prepared = sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut connection).await;
        assert!(prepared.is_ok(), "{}: {}", file.display(), prepared.unwrap_err());
    }
}

#[tokio::test]
async fn a_statement_that_its_session_has_lost_is_prepared_again() {
    let database = Database::new("lost_statements").await;
    let pool = &database.postgres.pool;
    let coffee = database.create("coffee", 10).await;
    for loss in ["deallocate all", "discard all", "alter table coupons alter column title type varchar(300)"]
    {
        coupons::get(pool, &coffee).await.unwrap().unwrap();
        let mut sessions = Vec::new();
        while sessions.len() < pool.current().size() as usize {
            let mut session = pool.current().acquire().await.unwrap();
            sqlx::raw_sql(loss).execute(&mut *session).await.unwrap();
            sessions.push(session);
        }
        drop(sessions);
        coupons::get(pool, &coffee).await.unwrap().unwrap();
    }

    // Outside the pool the owner of the session gets the error, and opens a new session.
    let mut session = database.connection().await;
    orders::get_many(&mut session, &[]).await.unwrap();
    sqlx::raw_sql("deallocate all").execute(&mut session).await.unwrap();
    let stale = orders::get_many(&mut session, &[]).await.unwrap_err();
    assert!(matches!(stale, PostgresError::Transient(_)), "{stale}");
}
