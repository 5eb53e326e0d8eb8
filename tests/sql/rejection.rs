//! Events that are not recorded but rejected: the order, its dead letter and the unit to return.

use seckill::domain::{OrderEvent, OrderStatus};
use seckill::postgres::dead_letters::{self, LetterOutcome};
use seckill::postgres::orders;

use crate::harness::{Database, EPOCH, event, letter};

#[tokio::test]
async fn a_rejected_order_has_one_letter_and_one_unit_to_return() {
    let database = Database::new("rejected").await;
    let coffee = database.create("coffee", 5).await;
    let claim = event(&coffee, "alice");
    for expected in [LetterOutcome::Written, LetterOutcome::AlreadyEnded] {
        let ended =
            dead_letters::reject(&mut database.connection().await, &EPOCH, &claim, &letter(Some("5-0")))
                .await;
        assert_eq!(ended.unwrap(), expected);
    }
    let order = orders::get(&database.postgres.pool, claim.order).await.unwrap().unwrap();
    assert_eq!(order.status, OrderStatus::Rejected);
    assert_eq!(database.number("select count(*) from dead_letters").await, 1);
    assert_eq!(database.number("select count(*) from outbox").await, 1);
    assert_eq!(database.stock(&coffee).await, 5, "a rejected order takes no unit in Postgres");

    assert_eq!(database.recorded(&[&claim]).await, (vec![], vec![]), "a rejected event is not recorded");
    let next = event(&coffee, "alice");
    assert_eq!(database.recorded(&[&next]).await, (vec![next.order], vec![]));
}

#[tokio::test]
async fn a_recorded_order_is_never_rejected() {
    let database = Database::new("never_rejected").await;
    let coffee = database.create("coffee", 5).await;
    let claim = event(&coffee, "alice");
    database.recorded(&[&claim]).await;
    let ended = dead_letters::reject(&mut database.connection().await, &EPOCH, &claim, &letter(Some("5-0")))
        .await
        .unwrap();
    assert_eq!(ended, LetterOutcome::AlreadyEnded);
    let order = orders::get(&database.postgres.pool, claim.order).await.unwrap().unwrap();
    assert_eq!(order.status, OrderStatus::Confirmed);
    assert_eq!(database.number("select count(*) from outbox").await, 0);
    assert_eq!(database.number("select count(*) from dead_letters").await, 0);
}

#[tokio::test]
async fn a_rejected_order_returns_the_unit_of_its_slot() {
    let database = Database::new("rejected_slot").await;
    let coffee = database.create("coffee", 5).await;
    let claim = OrderEvent { slot: 3, key: Some("key-1".parse().unwrap()), ..event(&coffee, "alice") };
    let ended =
        dead_letters::reject(&mut database.connection().await, &EPOCH, &claim, &letter(Some("5-0"))).await;
    assert_eq!(ended.unwrap(), LetterOutcome::Written);
    let row = "select count(*) from orders where slot = 3 and idempotency_key = 'key-1'";
    assert_eq!(database.number(row).await, 1);
    assert_eq!(database.number("select slot::bigint from outbox").await, 3);
}
