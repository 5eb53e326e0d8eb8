//! The epoch in the table `fence`: an older epoch writes nothing, and a rebuild waits for transactions that record.

use seckill::domain::{Epoch, OrderId, Partition};
use seckill::postgres::Postgres;
use seckill::postgres::coupons;
use seckill::postgres::dead_letters::{self, LetterOutcome};
use seckill::postgres::fence;
use seckill::postgres::orders::{self, RecordOutcome};
use seckill::postgres::rebuild::RebuildSession;
use sqlx::Connection;
use support::until;

use crate::harness::{Database, EPOCH, epoch, event, letter, rebuild_session};

#[tokio::test]
async fn in_another_epoch_or_after_lost_commits_nothing_is_recorded_rejected_or_kept() {
    let database = Database::new("fenced").await;
    let coffee = database.create("coffee", 5).await;
    let claim = event(&coffee, "alice");
    let fences = [
        (&epoch("2-beef"), "update fence set epoch = '1-c0ffee'"),
        (&*EPOCH, "update fence set postgres_identity = 'another'"),
        (&*EPOCH, "update fence set postgres_identity = postgres_identity(), postgres_lost = true"),
    ];
    for (epoch, fence) in fences {
        database.execute(fence).await.unwrap();
        let recorded = database.record(epoch, &[&claim]).await;
        assert!(matches!(recorded, RecordOutcome::Fenced), "{fence}: {recorded:?}");
        let entry = letter(Some("5-0"));
        let rejected =
            dead_letters::reject(&mut database.connection().await, epoch, &claim, &entry).await.unwrap();
        assert_eq!(rejected, LetterOutcome::Fenced, "{fence}");
        let kept = dead_letters::keep_unreadable(&mut database.connection().await, epoch, None, &entry)
            .await
            .unwrap();
        assert_eq!(kept, LetterOutcome::Fenced, "{fence}");
    }
    let written = "select (select count(*) from orders) + (select count(*) from dead_letters) + (select count(*) from outbox)";
    assert_eq!((database.number(written).await, database.stock(&coffee).await), (0, 5));

    database.execute("update fence set postgres_lost = false").await.unwrap();
    assert_eq!(database.recorded(&[&claim]).await, (vec![claim.order], vec![]));
}

#[tokio::test]
async fn only_the_postgres_of_the_epoch_gives_a_position_to_record() {
    let database = Database::new("positions").await;
    let position =
        async |epoch: &Epoch| fence::position_to_record(&database.postgres.pool, epoch).await.unwrap();
    let now = fence::durable_lsn(&database.postgres.pool).await.unwrap();
    assert!(position(&EPOCH).await.is_some_and(|position| position >= now));
    assert_eq!(position(&epoch("2-beef")).await, None, "another epoch");
    database.execute("update fence set postgres_identity = 'another'").await.unwrap();
    assert_eq!(position(&EPOCH).await, None, "another server");
}

#[tokio::test]
async fn a_publication_is_recorded_only_in_its_epoch_and_never_above_the_version() {
    let database = Database::new("published").await;
    database.create("coffee", 5).await;
    let published = "select published_version from coupons";
    let before = database.number(published).await;
    database.execute("update coupons set version = 7").await.unwrap();
    for (epoch, version) in [(&epoch("2-beef"), 7), (&*EPOCH, 8)] {
        let mut connection = database.connection().await;
        coupons::mark_published(&mut connection, epoch, vec!["coffee"], vec![version]).await.unwrap();
        assert_eq!(database.number(published).await, before, "version {version} in epoch {epoch}");
    }
    let mut connection = database.connection().await;
    coupons::mark_published(&mut connection, &EPOCH, vec!["coffee"], vec![7]).await.unwrap();
    assert_eq!(database.number(published).await, 7);
}

#[tokio::test]
async fn a_rebuild_waits_for_a_recording_transaction_and_then_fences_it_off() {
    let database = Database::new("rebuild_waits").await;
    let coffee = database.create("coffee", 5).await;
    let (claim, late) = (event(&coffee, "alice"), event(&coffee, "bob"));

    // Another session locks the coupon's row: the recording waits between insert and commit.
    let mut holder = database.postgres.dedicated().await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut holder).await.unwrap();
    let patient = "set idle_in_transaction_session_timeout = 0";
    sqlx::raw_sql(patient).execute(&mut holder).await.unwrap();
    let mut held = holder.begin().await.unwrap();
    sqlx::raw_sql("select from coupons for update").execute(&mut *held).await.unwrap();
    let recording = tokio::spawn({
        let (postgres, claim) = (database.postgres.clone(), claim.clone());
        async move { orders::record(&mut postgres.dedicated().await.unwrap(), &EPOCH, &[&claim]).await }
    });
    let blocked = "select count(*) from pg_stat_activity where $1 = any(pg_blocking_pids(pid))";
    let waiting = async |by: i32| -> i64 {
        sqlx::query_scalar(blocked).bind(by).fetch_one(&database.postgres.pool).await.unwrap()
    };
    until("the recording waits for the row", async || (waiting(pid).await == 1).then_some(())).await;

    let rebuild = tokio::spawn({
        let postgres = database.postgres.clone();
        async move {
            let mut session = rebuild_session(&postgres).await;
            session.start_epoch(&epoch("2-beef"), "run", "replid", false, None).await.unwrap();
            let mut recorded: Vec<OrderId> = Vec::new();
            let mut decision = session.decide().await.unwrap();
            let coffee = "coffee".parse().unwrap();
            decision.visit_live_orders(&coffee, |_, _, order, _| recorded.push(order)).await.unwrap();
            decision.commit().await.unwrap();
            session.close().await.unwrap();
            recorded
        }
    });
    let advisory = "select count(*) from pg_locks where locktype = 'advisory' and not granted
        and mode = 'ExclusiveLock' and database = (select oid from pg_database where datname = current_database())
        and pid in (select pid from pg_stat_activity where backend_type = 'client backend' and query like '%/fence/%')";
    until("the rebuild waits for the recording", async || {
        assert!(!rebuild.is_finished(), "the rebuild did not wait");
        (database.number(advisory).await == 1).then_some(())
    })
    .await;
    assert!(!recording.is_finished());

    held.commit().await.unwrap();
    let recorded = recording.await.unwrap().unwrap();
    assert!(matches!(&recorded, RecordOutcome::Done { inserted, .. } if inserted.len() == 1), "{recorded:?}");
    assert_eq!(rebuild.await.unwrap(), [claim.order], "the rebuild sees what it waited for");

    let after = database.record(&EPOCH, &[&late]).await;
    assert!(matches!(after, RecordOutcome::Fenced), "{after:?}");
    assert_eq!((database.orders().await, database.stock(&coffee).await), (1, 4));
}

#[tokio::test]
async fn one_process_rebuilds_at_a_time_and_does_not_block_rebuilds_of_other_schemas() {
    let production = Database::new("rebuild_lock").await;
    let staging = Database::new("rebuild_lock_staging").await;
    let other_process = Postgres::new(&production.cluster.url, production.postgres.schema()).unwrap();
    let session = rebuild_session(&production.postgres).await;
    assert!(RebuildSession::open(&other_process, Partition::DEFAULT).await.unwrap().is_none());
    rebuild_session(&staging.postgres).await.close().await.unwrap();
    assert!(RebuildSession::open(&other_process, Partition::DEFAULT).await.unwrap().is_none());
    session.close().await.unwrap();
    rebuild_session(&production.postgres).await.close().await.unwrap();
}
