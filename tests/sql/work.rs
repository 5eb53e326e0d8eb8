//! The connections that all partitions of a process share, and the locks of comparisons.

use seckill::domain::Partition;
use seckill::postgres::Postgres;
use seckill::postgres::work::WorkConnection;
use sqlx::PgConnection;
use support::until;

use crate::harness::Database;

const ONE: Partition = Partition::new(1);
const TWO: Partition = Partition::new(2);
const THREE: Partition = Partition::new(3);

/// Eight connections: two for requests, four for work, of which one partition gets two; and two sessions.
fn eight_connections(database: &Database) -> Postgres {
    Postgres::with_connections(&database.cluster.url, database.postgres.schema(), 8).unwrap()
}

async fn pid(connection: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(connection).await.unwrap()
}

async fn borrow(postgres: &Postgres, partition: Partition) -> WorkConnection {
    postgres.work.borrow(partition).await.unwrap()
}

async fn assert_busy(postgres: &Postgres, partition: Partition) {
    let refused = postgres.work.borrow(partition).await.map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("SECKILL_POSTGRES_CONNECTIONS"), "{refused}");
}

#[tokio::test]
async fn a_partition_leaves_connections_to_others_and_all_stay_below_the_limit() {
    let database = Database::bare("shared_connections");
    let postgres = eight_connections(&database);
    let (mut first, second) = (borrow(&postgres, ONE).await, borrow(&postgres, ONE).await);
    assert_busy(&postgres, ONE).await;
    let others = (borrow(&postgres, TWO).await, borrow(&postgres, TWO).await);
    assert_busy(&postgres, THREE).await;
    let used = pid(&mut first).await;
    let (waiting, ()) = tokio::join!(borrow(&postgres, THREE), async { first.give_back() });
    let mut waiting = waiting;
    assert_eq!(pid(&mut waiting).await, used, "a connection that was given back is lent again");
    drop((second, others));
}

#[tokio::test]
async fn a_connection_that_is_not_given_back_is_closed_with_its_locks() {
    let database = Database::bare("dropped_connection");
    let postgres = eight_connections(&database);
    let mut failed = borrow(&postgres, ONE).await;
    sqlx::raw_sql("begin; select pg_advisory_lock(4711)").execute(&mut *failed).await.unwrap();
    drop(failed);
    let mut next = borrow(&postgres, ONE).await;
    assert!(!next.is_reused());
    until("the lock is free", async || {
        let free: bool = sqlx::query_scalar("select pg_try_advisory_lock(4711)")
            .fetch_one(&database.postgres.pool)
            .await
            .unwrap();
        free.then_some(())
    })
    .await;
    assert!(pid(&mut next).await > 0);
}

#[tokio::test]
async fn a_connection_is_checked_once_for_each_partition() {
    let database = Database::bare("checked_connection");
    let postgres = eight_connections(&database);
    assert!(postgres.work.borrow_checked(ONE).is_none());
    let mut connection = borrow(&postgres, ONE).await;
    assert!(!connection.is_checked());
    connection.set_checked();
    connection.give_back();
    assert!(postgres.work.borrow_checked(TWO).is_none());
    let connection = postgres.work.borrow_checked(ONE).unwrap();
    assert!(connection.is_checked());
    connection.give_back();
    let other = borrow(&postgres, TWO).await;
    assert!(other.is_reused() && !other.is_checked());
}

#[tokio::test]
async fn after_a_failure_the_idle_connections_are_tried_before_they_are_lent() {
    let database = Database::bare("broken_connections");
    let postgres = eight_connections(&database);
    let (mut one, mut two, failed) =
        (borrow(&postgres, ONE).await, borrow(&postgres, TWO).await, borrow(&postgres, THREE).await);
    let ended = [pid(&mut one).await, pid(&mut two).await];
    one.give_back();
    two.give_back();
    let terminated: Vec<bool> =
        sqlx::query_scalar("select pg_terminate_backend(pid, 10000) from unnest($1::int[]) pid")
            .bind(ended)
            .fetch_all(&database.postgres.pool)
            .await
            .unwrap();
    assert_eq!(terminated, [true, true]);
    drop(failed);
    let mut next = borrow(&postgres, ONE).await;
    assert!(!ended.contains(&pid(&mut next).await));
}

#[tokio::test]
async fn one_process_has_the_lock_of_a_comparison_until_it_gives_it_up_or_its_session_ends() {
    let database = Database::bare("turns");
    database.postgres.prepare().await.unwrap();
    let (one, two) = (eight_connections(&database), eight_connections(&database));
    assert!(one.turns.take(ONE, "sums").await.unwrap());
    assert!(one.turns.take(ONE, "sums").await.unwrap(), "it keeps the lock");
    assert!(!two.turns.take(ONE, "sums").await.unwrap());
    assert!(two.turns.take(ONE, "everything").await.unwrap(), "another kind");
    assert!(two.turns.take(TWO, "sums").await.unwrap(), "another partition");
    one.turns.give_up(ONE).await.unwrap();
    assert!(two.turns.take(ONE, "sums").await.unwrap());
    assert!(!one.turns.take(ONE, "sums").await.unwrap());
    drop(two);
    until("the lock is free", async || one.turns.take(ONE, "sums").await.unwrap().then_some(())).await;
}
