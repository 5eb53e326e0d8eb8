//! The tables themselves refuse invalid rows, even if the program is wrong.

use seckill::postgres::dead_letters::{self, LetterOutcome};

use crate::harness::{Database, EPOCH, letter};

#[tokio::test]
async fn stock_never_falls_below_zero_or_above_the_total() {
    let database = Database::new("stock_range").await;
    database.create("coffee", 2).await;
    assert_eq!(database.refused_by("update coupons set stock = stock - 3").await, "coupons_stock_range");
    assert_eq!(database.refused_by("update coupons set stock = stock + 1").await, "coupons_stock_range");
    assert_eq!(database.refused_by("update coupons set total = 0, stock = 0").await, "coupons_total_range");
    assert_eq!(database.refused_by("update coupons set durability = 'disk'").await, "coupons_durability");
    database.execute("update coupons set stock = 0").await.unwrap();
}

/// A statement that inserts an order of coffee.
fn insert_order(user: &str, slot: i16, key: Option<&str>, status: &str) -> String {
    let key = key.map_or("null".to_owned(), |key| format!("'{key}'"));
    format!(
        "insert into orders (id, coupon_id, user_id, slot, idempotency_key, status, claimed_at)
         values (gen_random_uuid(), 'coffee', '{user}', {slot}, {key}, '{status}', now())"
    )
}

#[tokio::test]
async fn a_user_has_one_live_order_for_each_slot() {
    let database = Database::new("live_order").await;
    for live in ["reserved", "confirmed"] {
        let user = format!("user-{live}");
        database.execute(&insert_order(&user, 1, None, live)).await.unwrap();
        for second in ["reserved", "confirmed"] {
            let refused = database.refused_by(&insert_order(&user, 1, None, second)).await;
            assert_eq!(refused, "orders_one_live_per_slot");
        }
        database.execute(&insert_order(&user, 2, None, live)).await.unwrap();
    }
}

#[tokio::test]
async fn a_user_has_one_live_order_for_each_key() {
    let database = Database::new("live_key").await;
    database.execute(&insert_order("alice", 1, Some("k1"), "confirmed")).await.unwrap();
    let again = insert_order("alice", 2, Some("k1"), "confirmed");
    assert_eq!(database.refused_by(&again).await, "orders_one_live_per_key");
    database.execute(&insert_order("alice", 2, Some("k2"), "confirmed")).await.unwrap();
    database.execute(&insert_order("bob", 1, Some("k1"), "confirmed")).await.unwrap();
}

#[tokio::test]
async fn a_user_whose_orders_are_dead_can_claim_again() {
    let database = Database::new("dead_orders").await;
    for dead in ["cancelled", "expired", "rejected"] {
        for _ in 0..2 {
            database.execute(&insert_order("alice", 1, Some("k1"), dead)).await.unwrap();
        }
    }
    database.execute(&insert_order("alice", 1, Some("k1"), "confirmed")).await.unwrap();
}

#[tokio::test]
async fn an_order_has_a_known_status_and_a_user_that_fits() {
    let database = Database::new("order_checks").await;
    assert_eq!(database.refused_by(&insert_order("alice", 1, None, "accepted")).await, "orders_status");
    assert_eq!(database.refused_by(&insert_order("alice", 0, None, "confirmed")).await, "orders_slot_range");
    assert_eq!(database.refused_by(&insert_order("alice", 17, None, "confirmed")).await, "orders_slot_range");
    assert_eq!(database.refused_by(&insert_order("", 1, None, "confirmed")).await, "orders_user_length");
    let long = "x".repeat(1_000_000);
    assert_eq!(database.refused_by(&insert_order(&long, 1, None, "confirmed")).await, "orders_user_length");
}

#[tokio::test]
async fn an_entry_has_one_dead_letter() {
    let database = Database::new("dead_letters").await;
    for ended in [LetterOutcome::Written, LetterOutcome::AlreadyEnded] {
        let letter = letter(Some("5-0"));
        let kept =
            dead_letters::keep_unreadable(&mut database.connection().await, &EPOCH, None, &letter).await;
        assert_eq!(kept.unwrap(), ended);
    }
    assert_eq!(database.number("select count(*) from dead_letters").await, 1);
    let again = "insert into dead_letters (entry_id, fields, error) values ('5-0', '', '')";
    assert_eq!(database.refused_by(again).await, "dead_letters_one_per_entry");
}
