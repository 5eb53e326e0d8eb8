//! Recording batches of order events: each event becomes one order and takes one unit, in one transaction.

use seckill::domain::{CouponId, Definition, OrderEvent, OrderStatus, Origin, Partition};
use seckill::postgres::orders::{self, RecordOutcome};
use seckill::postgres::{PostgresError, coupons};
use sqlx::Row;
use support::definition;

use crate::harness::{Database, EPOCH, epoch, event};

#[tokio::test]
async fn an_event_recorded_twice_is_one_order_and_one_unit() {
    let database = Database::new("recorded_twice").await;
    let coffee = database.create("coffee", 5).await;
    let claim = event(&coffee, "alice");

    assert_eq!(database.recorded(&[&claim]).await, (vec![claim.order], vec![]));
    assert_eq!(database.recorded(&[&claim]).await, (vec![], vec![]));
    assert_eq!(database.recorded(&[&claim, &claim]).await, (vec![], vec![]));

    assert_eq!((database.orders().await, database.stock(&coffee).await), (1, 4));
    let order = orders::get(&database.postgres.pool, claim.order).await.unwrap().unwrap();
    assert_eq!((order.user, order.status), (claim.user.clone(), OrderStatus::Confirmed));
    assert_eq!(order.claimed_at, claim.order.claimed_at().unwrap());
}

#[tokio::test]
async fn an_event_twice_in_one_batch_is_one_order_and_one_unit() {
    let database = Database::new("twice_in_batch").await;
    let coffee = database.create("coffee", 5).await;
    let claim = event(&coffee, "alice");
    assert_eq!(database.recorded(&[&claim, &claim]).await, (vec![claim.order], vec![]));
    assert_eq!((database.orders().await, database.stock(&coffee).await), (1, 4));
}

#[tokio::test]
async fn known_events_sent_as_new_are_recorded_once() {
    let database = Database::new("taken_for_new").await;
    let coffee = database.create("coffee", 3).await;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|user| event(&coffee, user));
    let rival = event(&coffee, "alice");
    let mut connection = database.connection().await;
    let mut recorded =
        async |events: &[&OrderEvent]| match orders::record_new(&mut connection, &EPOCH, events).await {
            Ok(RecordOutcome::Done { inserted, conflicting }) => (inserted, conflicting),
            other => panic!("{other:?}"),
        };
    assert_eq!(recorded(&[&alice]).await, (vec![alice.order], vec![]));
    assert_eq!(recorded(&[&alice, &bob]).await, (vec![bob.order], vec![]), "one of them for the second time");
    assert_eq!(recorded(&[&alice, &bob]).await, (vec![], vec![]), "both for the second time");
    assert_eq!(recorded(&[&rival, &carol]).await, (vec![carol.order], vec![rival.order]));
    assert_eq!((database.orders().await, database.stock(&coffee).await), (3, 0));

    let late = event(&coffee, "dave");
    for (epoch, expected) in [(&epoch("2-beef"), "Fenced"), (&*EPOCH, "StockShort")] {
        let refused = orders::record_new(&mut connection, epoch, &[&late]).await.unwrap();
        assert!(format!("{refused:?}").starts_with(expected), "{refused:?}");
    }
    assert_eq!(database.orders().await, 3);
}

#[tokio::test]
async fn a_users_second_order_is_reported_as_conflicting_and_the_rest_is_recorded() {
    let database = Database::new("conflicting").await;
    let coffee = database.create("coffee", 5).await;
    let (first, second, other) = (event(&coffee, "alice"), event(&coffee, "alice"), event(&coffee, "bob"));

    assert_eq!(database.recorded(&[&second, &first]).await, (vec![first.order], vec![second.order]));
    assert_eq!(database.recorded(&[&second, &other]).await, (vec![other.order], vec![second.order]));
    assert_eq!((database.orders().await, database.stock(&coffee).await), (2, 3));
}

#[tokio::test]
async fn a_taken_slot_a_used_key_and_a_slot_above_the_limit_are_conflicts_of_that_user_only() {
    let database = Database::new("slots").await;
    let coffee: CouponId = "coffee".parse().unwrap();
    let several = Definition { per_user_limit: 2, ..definition("coffee", 9) };
    assert!(
        coupons::insert(&database.postgres.pool, &several, Partition::DEFAULT, &Origin::system(None))
            .await
            .unwrap()
    );
    let event = |user: &str, slot, key: &str| OrderEvent {
        slot,
        key: Some(key.parse().unwrap()),
        ..event(&coffee, user)
    };
    let first = [event("alice", 1, "a"), event("alice", 2, "b"), event("bob", 1, "a"), event("bob", 2, "b")];
    let ids = |events: &[&OrderEvent]| events.iter().map(|event| event.order).collect::<Vec<_>>();
    let mut connection = database.connection().await;
    match orders::record_new(&mut connection, &EPOCH, &first.each_ref()).await {
        Ok(RecordOutcome::Done { inserted, conflicting }) => {
            assert_eq!((inserted, conflicting), (ids(&first.each_ref()), vec![]));
        }
        other => panic!("{other:?}"),
    }
    let good = event("carol", 1, "a");
    let (same_slot, same_key, no_slot) =
        (event("alice", 2, "c"), event("carol", 2, "a"), event("carol", 3, "c"));
    let batch = [&same_slot, &good, &same_key, &no_slot];
    let (inserted, mut conflicting) = database.recorded(&batch).await;
    conflicting.sort();
    assert_eq!((inserted, conflicting), (ids(&[&good]), ids(&[&same_slot, &same_key, &no_slot])));
    assert_eq!((database.orders().await, database.stock(&coffee).await), (5, 4));
    let new = orders::record_new(&mut connection, &EPOCH, &[&no_slot]).await.unwrap();
    assert!(
        matches!(&new, RecordOutcome::Done { conflicting, .. } if *conflicting == [no_slot.order]),
        "{new:?}"
    );
    let rows = sqlx::query("select user_id, slot, idempotency_key as key from orders order by id")
        .fetch_all(&database.postgres.pool)
        .await
        .unwrap();
    let rows: Vec<(String, i16, String)> =
        rows.iter().map(|row| (row.get("user_id"), row.get("slot"), row.get("key"))).collect();
    let expected = first.iter().chain([&good]);
    let expected: Vec<(String, i16, String)> = expected
        .map(|event| (event.user.to_string(), event.slot, event.key.as_ref().unwrap().to_string()))
        .collect();
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn a_coupon_with_a_reservation_time_records_reserved_orders() {
    let database = Database::new("reserved").await;
    let id: CouponId = "coffee".parse().unwrap();
    let reserved = Definition { reserve_seconds: Some(900), ..definition("coffee", 5) };
    assert!(
        coupons::insert(&database.postgres.pool, &reserved, Partition::DEFAULT, &Origin::system(None))
            .await
            .unwrap()
    );
    database.recorded(&[&event(&id, "alice")]).await;
    let row = sqlx::query("select status, (reserved_until - recorded_at)::text as s from orders")
        .fetch_one(&database.postgres.pool)
        .await
        .unwrap();
    let found: (String, String) = (row.get("status"), row.get("s"));
    assert_eq!(found, ("reserved".into(), "00:15:00".into()));
}

#[tokio::test]
async fn a_batch_beyond_the_stock_writes_nothing() {
    let database = Database::new("stock_short").await;
    let (coffee, tea) = (database.create("coffee", 5).await, database.create("tea", 1).await);
    let events = [event(&coffee, "alice"), event(&tea, "alice"), event(&tea, "bob")];
    let outcome = database.record(&EPOCH, &events.each_ref()).await;
    assert!(matches!(&outcome, RecordOutcome::StockShort(id) if *id == tea), "{outcome:?}");
    assert_eq!(database.orders().await, 0);
    assert_eq!((database.stock(&coffee).await, database.stock(&tea).await), (5, 1));
}

#[tokio::test]
async fn a_batch_with_an_unknown_coupon_writes_nothing() {
    let database = Database::new("unknown_coupon").await;
    let coffee = database.create("coffee", 5).await;
    let ghost: CouponId = "ghost".parse().unwrap();
    let events = [event(&coffee, "alice"), event(&ghost, "alice")];
    let outcome = database.record(&EPOCH, &events.each_ref()).await;
    assert!(matches!(&outcome, RecordOutcome::UnknownCoupon(id) if *id == ghost), "{outcome:?}");
    assert_eq!((database.orders().await, database.stock(&coffee).await), (0, 5));
}

#[tokio::test]
async fn batches_in_opposite_orders_never_deadlock() {
    const ROUNDS: usize = 50;
    const COUPONS: usize = 8;
    let database = Database::new("deadlock").await;
    let rounds = i64::try_from(ROUNDS).unwrap();
    let mut ids = Vec::new();
    for number in 0..COUPONS {
        ids.push(database.create(&format!("coupon-{number}"), 3 * rounds).await);
    }
    for round in 0..ROUNDS {
        let user = |who: &str| format!("{who}-{round}");
        // After a reclaim two workers have the same events, and each has some other events.
        let shared: Vec<OrderEvent> = ids.iter().map(|id| event(id, &user("both"))).collect();
        let mine: Vec<OrderEvent> = ids.iter().map(|id| event(id, &user("first"))).collect();
        let yours: Vec<OrderEvent> = ids.iter().map(|id| event(id, &user("second"))).collect();
        let forwards: Vec<&OrderEvent> = shared.iter().chain(&mine).collect();
        let backwards: Vec<&OrderEvent> = yours.iter().rev().chain(shared.iter().rev()).collect();
        let (mut mine, mut theirs) = (database.connection().await, database.connection().await);
        let (one, two) = tokio::join!(
            orders::record(&mut mine, &EPOCH, &forwards),
            orders::record(&mut theirs, &EPOCH, &backwards)
        );
        let inserted = |outcome: Result<RecordOutcome, PostgresError>| match outcome {
            Ok(RecordOutcome::Done { inserted, conflicting }) => {
                assert!(conflicting.is_empty(), "round {round}: {conflicting:?}");
                inserted.len()
            }
            other => panic!("round {round}: {other:?}"),
        };
        assert_eq!(inserted(one) + inserted(two), 3 * COUPONS, "round {round}");
    }
    for id in &ids {
        assert_eq!(database.stock(id).await, 0, "{id}: one unit for each order");
    }
}
