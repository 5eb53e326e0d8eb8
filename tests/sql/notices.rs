//! Notices of recorded orders: who gets them, and that they cost a recording nothing.

use std::collections::HashSet;
use std::time::Duration;

use seckill::domain::{Epoch, OrderId, Partition};
use seckill::postgres::notices::{self, Listener};
use seckill::postgres::{PgConnection, Postgres, fence};
use sqlx::postgres::PgListener;
use support::until;

use crate::harness::Database;

/// Longest wait for a notice.
const DEADLINE: Duration = Duration::from_secs(20);
const CHANNEL: &str =
    "select 'seckill_recorded_' || to_hex(hashtextextended(current_schema() || '/recorded', 0))";

fn orders(count: usize) -> Vec<OrderId> {
    (0..count).map(|_| OrderId::mint()).collect()
}

async fn send(postgres: &Postgres, orders: &[OrderId]) -> String {
    let mut connection: PgConnection = postgres.dedicated().await.unwrap();
    let position = notices::send(&mut connection, &epoch(postgres).await, orders).await.unwrap();
    position.expect("the epoch is that of the fence")
}

async fn epoch(postgres: &Postgres) -> Epoch {
    fence::read(&postgres.pool, Partition::DEFAULT).await.unwrap().epoch
}

async fn next(listener: &mut Listener) -> Vec<OrderId> {
    let next = tokio::time::timeout(DEADLINE, listener.next()).await;
    next.expect("waited too long for a notice").unwrap()
}

/// Reads until it has these orders.
async fn assert_gets(listener: &mut Listener, orders: &[OrderId]) {
    let mut missing: HashSet<OrderId> = orders.iter().copied().collect();
    while !missing.is_empty() {
        for order in next(listener).await {
            missing.remove(&order);
        }
    }
}

#[tokio::test]
async fn every_session_that_listens_gets_every_order_of_its_schema_in_notices_that_postgres_takes() {
    let database = Database::new("notices").await;
    let other = Database::new("notices_of_another_schema").await;
    let mut listeners = [
        database.postgres.notices.listen().await.unwrap(),
        database.postgres.notices.listen().await.unwrap(),
    ];
    send(&other.postgres, &orders(1)).await;
    let recorded = orders(1_000);
    let lsn = send(&database.postgres, &recorded).await;
    assert_eq!(lsn.len(), 17, "the WAL position, padded: {lsn}");
    for listener in &mut listeners {
        let first = next(listener).await;
        assert!(recorded.contains(&first[0]), "orders of another schema are not told");
        assert_gets(listener, &recorded[first.len()..]).await;
    }
}

#[tokio::test]
async fn nothing_is_sent_while_no_process_listens() {
    let database = Database::new("no_listener").await;
    // It hears all notices, but does not have the lock of a process that listens.
    let mut eavesdropper = PgListener::connect_with(&database.postgres.pool.current()).await.unwrap();
    let channel: String = sqlx::query_scalar(CHANNEL).fetch_one(&database.postgres.pool).await.unwrap();
    eavesdropper.listen(&channel).await.unwrap();
    send(&database.postgres, &orders(3)).await;
    let listener = database.postgres.notices.listen().await.unwrap();
    let sent = orders(2);
    send(&database.postgres, &sent).await;
    let heard = tokio::time::timeout(DEADLINE, eavesdropper.recv()).await;
    let bytes = heard.expect("waited too long for a notice").unwrap().payload().len();
    assert_eq!(bytes, 43, "the first notice has the two orders, in base64");
    drop(listener);
    until("the session of the listener has ended", async || {
        let sessions = "select count(*) from pg_stat_activity where application_name = 'seckill notices'
            and query like 'UNLISTEN%'";
        let left: i64 = sqlx::query_scalar(sessions).fetch_one(&database.postgres.pool).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_notice_that_postgres_refuses_stops_no_recording() {
    let database = Database::new("refused_notice").await;
    let _listener = database.postgres.notices.listen().await.unwrap();
    let mut connection = database.postgres.dedicated().await.unwrap();
    sqlx::raw_sql(
        "create function pg_notify(text, text) returns void language plpgsql as
            $$ begin raise exception 'too many notifications in the NOTIFY queue' using errcode = '54000'; end $$;
         set search_path = refused_notice, pg_catalog",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let epoch = epoch(&database.postgres).await;
    let lsn = notices::send(&mut connection, &epoch, &orders(1)).await.unwrap();
    assert_eq!(lsn.map(|lsn| lsn.len()), Some(17));
    assert!(connection_is_usable(&mut connection).await);
}

async fn connection_is_usable(connection: &mut PgConnection) -> bool {
    sqlx::query_scalar("select true").fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn a_session_that_ends_is_noticed() {
    let database = Database::new("ended_listener").await;
    let mut listener = database.postgres.notices.listen().await.unwrap();
    let end = "select pg_terminate_backend(pid) from pg_locks join pg_stat_activity using (pid)
        where locktype = 'advisory' and application_name = 'seckill notices' and granted
        and (classid::bigint << 32 | objid::bigint) = hashtextextended(current_schema() || '/recorded', 0)";
    let ended: bool = sqlx::query_scalar(end).fetch_one(&database.postgres.pool).await.unwrap();
    assert!(ended);
    let why = listener.next().await.unwrap_err().to_string();
    assert!(why.contains("Postgres cannot serve now"), "{why}");
}
