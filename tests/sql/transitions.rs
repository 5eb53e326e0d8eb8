//! Confirm, cancel and revoke in Postgres: the rows that they change, their results, and the cases in which they write
//! nothing.

use std::collections::HashMap;

use seckill::domain::{CouponId, Definition, OrderEvent, OrderId, OrderStatus, Origin, Partition, UserId};
use seckill::postgres::transitions::{self, AskedOrder, Revocation, TransitionOutcome};
use seckill::postgres::{PgConnection, PostgresError, coupons};
use sqlx::Connection;
use support::definition;

use crate::harness::{Database, EPOCH, epoch, event};

/// The lowest WAL position.
const ANY: &str = "";

/// Reserved orders of one coupon, and a connection with the program's settings.
struct Scene {
    database: Database,
    connection: PgConnection,
    coffee: CouponId,
}

impl Scene {
    /// A coupon of five units with this time to pay; `None` records its orders as confirmed.
    async fn new(schema: &str, reserve_seconds: Option<i32>) -> Self {
        let database = Database::new(schema).await;
        let coffee = Definition { reserve_seconds, ..definition("coffee", 5) };
        assert!(
            coupons::insert(&database.postgres.pool, &coffee, Partition::DEFAULT, &Origin::system(None))
                .await
                .unwrap()
        );
        let connection = database.connection().await;
        Self { database, connection, coffee: coffee.id }
    }

    async fn ordered(&self, user: &str) -> OrderId {
        let event = event(&self.coffee, user);
        self.database.recorded(&[&event]).await;
        event.order
    }

    async fn expire(&self, order: OrderId) {
        let due = format!("update orders set reserved_until = clock_timestamp() where id = '{order}'");
        self.database.execute(&due).await.unwrap();
    }

    async fn confirm(&mut self, orders: &[(OrderId, Option<&str>)]) -> Changed {
        Changed::of(transitions::confirm(&mut self.connection, &EPOCH, ANY, &asked(orders)).await)
    }

    async fn cancel(&mut self, orders: &[(OrderId, Option<&str>)]) -> Changed {
        Changed::of(transitions::cancel(&mut self.connection, &EPOCH, ANY, &asked(orders)).await)
    }

    async fn revoke(&mut self, order: OrderId, return_unit: bool) -> TransitionOutcome {
        let revocation = revocation(order, return_unit);
        transitions::revoke(&mut self.connection, &EPOCH, ANY, &revocation).await.unwrap()
    }

    /// Total, stock and version of the coupon, and the versions that outbox rows wait for, each followed by a comma.
    async fn coupon(&self) -> (i64, i64, i64, String) {
        sqlx::query_as(
            "select total, stock, version,
                (select coalesce(string_agg(coalesce(after_version::text, 'none') || ',', ''), '') from outbox)
             from coupons where id = 'coffee'",
        )
        .fetch_one(&self.database.postgres.pool)
        .await
        .unwrap()
    }
}

/// The orders that a transaction changed, and the status of each order that it read.
struct Changed {
    changed: Vec<OrderId>,
    statuses: HashMap<OrderId, OrderStatus>,
}

impl Changed {
    fn of(outcome: Result<TransitionOutcome, PostgresError>) -> Self {
        let TransitionOutcome::Done { changed, rows } = outcome.unwrap() else { panic!("not done") };
        let mut changed: Vec<OrderId> = changed.into_iter().collect();
        changed.sort();
        Self { changed, statuses: rows.into_iter().map(|(id, row)| (id, row.status)).collect() }
    }
}

fn asked(orders: &[(OrderId, Option<&str>)]) -> Vec<AskedOrder> {
    let user = |user: &str| -> UserId { user.parse().unwrap() };
    orders.iter().map(|(order, by)| AskedOrder { order: *order, user: by.map(user) }).collect()
}

fn revocation(order: OrderId, return_unit: bool) -> Revocation {
    Revocation { order, reason: "fraud".into(), return_unit, origin: Origin::admin("request-1") }
}

#[tokio::test]
async fn only_reserved_orders_of_the_user_and_in_time_are_confirmed() {
    let mut scene = Scene::new("confirm", Some(900)).await;
    let [mine, due, theirs, any] = [
        scene.ordered("alice").await,
        scene.ordered("bob").await,
        scene.ordered("carol").await,
        scene.ordered("dave").await,
    ];
    scene.expire(due).await;
    let unknown = OrderId::mint();
    let orders =
        [(mine, Some("alice")), (due, Some("bob")), (theirs, Some("alice")), (any, None), (unknown, None)];
    let first = scene.confirm(&orders).await;
    assert_eq!(first.changed, [mine, any]);
    let statuses =
        [OrderStatus::Confirmed, OrderStatus::Reserved, OrderStatus::Reserved, OrderStatus::Confirmed];
    assert_eq!([mine, due, theirs, any].map(|order| first.statuses[&order]), statuses);
    assert!(!first.statuses.contains_key(&unknown));
    let again = scene.confirm(&orders).await;
    assert_eq!((again.changed, again.statuses), (vec![], first.statuses));
    assert_eq!(scene.coupon().await, (5, 1, 1, String::new()), "a confirm touches no coupon");
    let in_time = "select count(*) from orders where confirmed_at between recorded_at and reserved_until";
    assert_eq!(scene.database.number(in_time).await, 2);
}

#[tokio::test]
async fn an_order_with_an_infinite_time_to_pay_can_be_confirmed_and_read() {
    let mut scene = Scene::new("infinite_time_to_pay", Some(900)).await;
    let order = scene.ordered("alice").await;
    scene.database.execute("update orders set reserved_until = 'infinity'").await.unwrap();
    let confirmed = scene.confirm(&[(order, None)]).await;
    assert_eq!(confirmed.statuses[&order], OrderStatus::Confirmed);
}

#[tokio::test]
async fn a_cancelled_order_returns_its_unit_once_and_is_never_confirmed() {
    let mut scene = Scene::new("cancel", Some(900)).await;
    let [one, two, due, paid] = [
        scene.ordered("alice").await,
        scene.ordered("bob").await,
        scene.ordered("carol").await,
        scene.ordered("dave").await,
    ];
    scene.expire(due).await;
    scene.confirm(&[(paid, None)]).await;
    let orders = [(two, None), (one, Some("alice")), (one, Some("alice")), (due, None), (paid, None)];
    let first = scene.cancel(&orders).await;
    assert_eq!(first.changed, [one, two], "also if an order is asked for twice");
    assert_eq!(scene.coupon().await, (5, 3, 1, "none,none,".into()));
    assert!(scene.cancel(&orders).await.changed.is_empty());
    let late = scene.confirm(&[(one, None), (due, None)]).await;
    assert!(late.changed.is_empty());
    assert_eq!(late.statuses[&one], OrderStatus::Cancelled);
    assert_eq!(scene.coupon().await, (5, 3, 1, "none,none,".into()));
    let ended = "select count(*) from orders where ended_at is not null and status = 'cancelled'";
    assert_eq!(scene.database.number(ended).await, 2);
}

#[tokio::test]
async fn a_revoked_order_returns_its_unit_or_lowers_the_total_under_a_new_version() {
    let mut scene = Scene::new("revoke", None).await;
    let (returned, withdrawn) = (scene.ordered("alice").await, scene.ordered("bob").await);
    for (order, return_unit, coupon) in
        [(returned, true, (5, 4, 1, "none,")), (withdrawn, false, (4, 4, 2, "none,2,"))]
    {
        for _ in 0..2 {
            let TransitionOutcome::Done { rows, .. } = scene.revoke(order, return_unit).await else {
                panic!()
            };
            let row = &rows[&order];
            assert_eq!((row.status, row.reason.as_deref()), (OrderStatus::Cancelled, Some("fraud")));
            let (total, stock, version, versions) = scene.coupon().await;
            assert_eq!((total, stock, version, versions.as_str()), coupon, "return_unit {return_unit}");
        }
    }
    let logged =
        "select count(*) from audit_log where action = 'revoke' and actor = 'admin' and order_id is not null
        and coupon_id = 'coffee' and request_id = 'request-1' and new ->> 'reason' = 'fraud'";
    assert_eq!(scene.database.number(logged).await, 2, "a row for each revocation, none for a repeat");
}

#[tokio::test]
async fn only_a_confirmed_order_is_revoked_and_the_only_unit_is_not_withdrawn() {
    let mut scene = Scene::new("not_revoked", Some(900)).await;
    let reserved = scene.ordered("alice").await;
    let TransitionOutcome::Done { changed, .. } = scene.revoke(reserved, true).await else { panic!() };
    assert!(changed.is_empty());
    scene.database.execute("update coupons set total = 1, stock = 0").await.unwrap();
    scene.confirm(&[(reserved, None)]).await;
    assert!(matches!(scene.revoke(reserved, false).await, TransitionOutcome::LastUnit));
    let untouched = "select count(*) from orders where status = 'confirmed' and not exists (select from audit_log where action = 'revoke')";
    assert_eq!(scene.database.number(untouched).await, 1);
    let TransitionOutcome::Done { changed, .. } = scene.revoke(reserved, true).await else { panic!() };
    assert_eq!(changed.len(), 1);
    assert_eq!(scene.coupon().await, (1, 1, 1, "none,".into()));
}

#[tokio::test]
async fn no_order_is_confirmed_cancelled_or_revoked_in_another_epoch_or_in_an_older_copy() {
    let mut scene = Scene::new("transitions_fenced", Some(900)).await;
    let (reserved, confirmed) = (scene.ordered("alice").await, scene.ordered("bob").await);
    scene.confirm(&[(confirmed, None)]).await;
    let fences = [
        (&epoch("2-beef"), ANY, "update fence set epoch = '1-c0ffee'"),
        // Redis has the position of a commit that this Postgres lacks.
        (&*EPOCH, "FFFFFFFF/FFFFFFFF", "select"),
        (&*EPOCH, ANY, "update fence set postgres_identity = 'another'"),
        (&*EPOCH, ANY, "update fence set postgres_identity = postgres_identity(), postgres_lost = true"),
    ];
    let before = scene.coupon().await;
    for (epoch, position, fence) in fences {
        scene.database.execute(fence).await.unwrap();
        let (asked, revocation) = (asked(&[(reserved, None)]), revocation(confirmed, false));
        let connection = &mut scene.connection;
        for outcome in [
            transitions::confirm(connection, epoch, position, &asked).await,
            transitions::cancel(connection, epoch, position, &asked).await,
            transitions::revoke(connection, epoch, position, &revocation).await,
        ] {
            assert!(matches!(outcome, Ok(TransitionOutcome::Fenced)), "{position} {fence}: {outcome:?}");
        }
    }
    assert_eq!(scene.coupon().await, before);
    let untouched = "select count(*) filter (where status = 'reserved') * 10 + count(*) filter (where status = 'confirmed')
        from orders where not exists (select from audit_log where action = 'revoke')";
    assert_eq!(scene.database.number(untouched).await, 11);
}

#[tokio::test]
async fn a_transition_that_waits_for_a_row_holds_the_fences_lock() {
    let scene = Scene::new("rebuild_waits_for_transition", Some(900)).await;
    let order = scene.ordered("alice").await;
    // Another session has locked the order's row: the confirm waits inside its transaction.
    let mut holder = scene.database.connection().await;
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut holder).await.unwrap();
    sqlx::raw_sql("set idle_in_transaction_session_timeout = 0").execute(&mut holder).await.unwrap();
    let mut held = holder.begin().await.unwrap();
    sqlx::raw_sql("select from orders for update").execute(&mut *held).await.unwrap();
    let confirming = tokio::spawn({
        let postgres = scene.database.postgres.clone();
        async move {
            let mut connection = postgres.dedicated().await.unwrap();
            transitions::confirm(&mut connection, &EPOCH, ANY, &asked(&[(order, None)])).await
        }
    });
    let locks = "select count(*) from pg_stat_activity where $1 = any(pg_blocking_pids(pid))";
    support::until("the confirm waits for the row", async || {
        let waiting: i64 =
            sqlx::query_scalar(locks).bind(pid).fetch_one(&scene.database.postgres.pool).await.unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    let exclusive = "select pg_try_advisory_lock(hashtextextended(current_schema() || '/fence/0', 0))";
    let free: bool = sqlx::query_scalar(exclusive).fetch_one(&scene.database.postgres.pool).await.unwrap();
    assert!(!free, "the transaction holds the fence's lock");
    held.rollback().await.unwrap();
    let confirmed = Changed::of(confirming.await.unwrap());
    assert_eq!(confirmed.changed, [order]);
}

#[tokio::test]
async fn confirms_and_cancels_beside_recordings_never_deadlock() {
    const ROUNDS: usize = 30;
    const COUPONS: usize = 6;
    let database = Database::new("transitions_deadlock").await;
    let mut ids = Vec::new();
    for number in 0..COUPONS {
        let id = format!("coupon-{number}");
        let coupon = Definition { reserve_seconds: Some(900), ..definition(&id, 1_000) };
        assert!(
            coupons::insert(&database.postgres.pool, &coupon, Partition::DEFAULT, &Origin::system(None))
                .await
                .unwrap()
        );
        ids.push(coupon.id);
    }
    let (mut one, mut two, mut three) =
        (database.connection().await, database.connection().await, database.connection().await);
    for round in 0..ROUNDS {
        let events: Vec<OrderEvent> = ids.iter().map(|id| event(id, &format!("held-{round}"))).collect();
        database.recorded(&events.iter().collect::<Vec<_>>()).await;
        let forwards: Vec<(OrderId, Option<&str>)> = events.iter().map(|event| (event.order, None)).collect();
        let backwards: Vec<_> = forwards.iter().rev().copied().collect();
        let next: Vec<OrderEvent> = ids.iter().rev().map(|id| event(id, &format!("next-{round}"))).collect();
        let next: Vec<&OrderEvent> = next.iter().collect();
        let (forwards, backwards) = (asked(&forwards), asked(&backwards));
        let (confirmed, cancelled, recorded) = tokio::join!(
            transitions::confirm(&mut one, &EPOCH, ANY, &forwards),
            transitions::cancel(&mut two, &EPOCH, ANY, &backwards),
            seckill::postgres::orders::record(&mut three, &EPOCH, &next),
        );
        let changed = Changed::of(confirmed).changed.len() + Changed::of(cancelled).changed.len();
        assert_eq!(changed, COUPONS, "round {round}: each order has one winner");
        recorded.unwrap();
    }
    let sums = "select count(*) from coupons c where stock <> total
        - (select count(*) from orders where coupon_id = c.id and status in ('reserved', 'confirmed'))";
    assert_eq!(database.number(sums).await, 0);
}
