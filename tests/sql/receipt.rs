//! The counts of the receipt and of lists of coupons: what they count, and what they read.

use std::collections::HashMap;
use std::fs;

use seckill::domain::{OrderEvent, Origin, Partition};
use seckill::postgres::receipt::{self, OrderCounts, Snapshot};
use seckill::postgres::transitions::{self, AskedOrder, Revocation};
use seckill::postgres::{coupons, receipt::winners};

use crate::harness::{Database, EPOCH, event};
use crate::indexes::entries_read;

#[tokio::test]
async fn lists_count_the_units_of_a_coupon_by_indexes() {
    let database = Database::new("receipt_lists").await;
    let pool = &database.postgres.pool;
    let crowd = database.create("crowd", 2_000).await;
    let coffee = database.create("coffee", 10).await;
    let events: Vec<OrderEvent> = (0..2_000).map(|number| event(&crowd, &format!("user-{number}"))).collect();
    database.recorded(&events.iter().collect::<Vec<_>>()).await;
    database.execute("update coupons set reserve_seconds = 900 where id = 'coffee'").await.unwrap();
    let reserved = ["alice", "bob", "carol"].map(|user| event(&coffee, user));
    database.recorded(&reserved.each_ref()).await;
    let cancelled = [AskedOrder { order: reserved[0].order, user: None }];
    transitions::cancel(&mut database.connection().await, &EPOCH, "", &cancelled).await.unwrap();

    let before = entries_read(pool, &["orders"]).await;
    let of = |coupon: &str, units: i64| HashMap::from([(coupon.to_owned(), units)]);
    assert_eq!(receipt::reserved_orders(pool, Partition::DEFAULT).await.unwrap(), of("coffee", 2));
    assert_eq!(receipt::units_in_outbox(pool, Partition::DEFAULT).await.unwrap(), of("coffee", 1));
    let page = winners(pool, &coffee, None, 1).await.unwrap();
    let rest = winners(pool, &coffee, Some(reserved[1].order), 5).await.unwrap();
    assert_eq!([&page[..], &rest].map(|page| page[0].user_id.as_str()), ["bob", "carol"]);
    assert_eq!((page.len(), rest.len()), (1, 1));
    let read = entries_read(pool, &["orders"]).await - before;
    assert!((1..100).contains(&read), "{read} rows and entries of indexes were read");
}

#[tokio::test]
async fn a_snapshot_does_not_see_later_changes() {
    let database = Database::new("receipt_snapshot").await;
    let pool = &database.postgres.pool;
    let coffee = database.create("coffee", 10).await;
    database.recorded(&[&event(&coffee, "alice")]).await;
    let mut snapshot = Snapshot::begin(pool, Partition::DEFAULT).await.unwrap();
    assert_eq!(snapshot.coupon(&coffee).await.unwrap().unwrap().stock, 9);
    database.recorded(&[&event(&coffee, "bob")]).await;
    assert_eq!(snapshot.coupon(&coffee).await.unwrap().unwrap().stock, 9);
    let counts = OrderCounts { reserved: 0, confirmed: 1, rejected: 0 };
    assert_eq!(snapshot.count(&coffee).await.unwrap(), counts);
    assert_eq!(snapshot.outbox(&coffee).await.unwrap(), (Vec::new(), 0));
    snapshot.end().await.unwrap();
}

#[tokio::test]
async fn returned_units_are_counted_and_the_migration_counts_those_of_before() {
    let database = Database::new("receipt_returned").await;
    let pool = &database.postgres.pool;
    let coffee = database.create("coffee", 10).await;
    let events = ["alice", "bob", "carol"].map(|user| event(&coffee, user));
    database.recorded(&events.each_ref()).await;
    let mut session = database.connection().await;
    for (event, return_unit) in events.iter().zip([true, false]) {
        let (order, origin) = (event.order, Origin::admin("r"));
        let revocation = Revocation { order, reason: "fraud".into(), return_unit, origin };
        transitions::revoke(&mut session, &EPOCH, "", &revocation).await.unwrap();
    }
    let returned = async || coupons::get(pool, Partition::DEFAULT, &coffee).await.unwrap().unwrap().returned;
    assert_eq!(returned().await, 1);
    database.execute("update coupons set returned = 0").await.unwrap();
    let migration = fs::read_to_string("sql/migrations/0011_receipt.sql").unwrap();
    let (_, update) = migration.split_once("\nupdate ").unwrap();
    let (update, _) = update.split_once(";\n").unwrap();
    database.execute(&format!("update {update}")).await.unwrap();
    assert_eq!(returned().await, 1);
}
