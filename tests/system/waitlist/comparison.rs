//! The comparison finds users whom only one store has in line, and touches no request that may still run.

use reqwest::Method;
use serde_json::{Value, json};

use support::{Sale, until};

use super::{
    LINE, LINE_ORDERS, WAITING, place, revoke, rows_of, sold_out_with_a_line, unserved, until_line_is_whole,
    until_served,
};

/// Makes all rows older than any request that runs.
fn let_rows_age(sale: &Sale) {
    sale.psql("update waitlist set joined_at = joined_at - interval '2 minutes'");
}

async fn compare(sale: &Sale, fix: bool) -> Value {
    let compared = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"fix": fix}))).await;
    assert_eq!(compared.status, 200, "{}", compared.text);
    compared.body
}

#[track_caller]
fn assert_drift(report: &Value, users: usize, fixed: usize, fenced: bool) {
    let seen = (&report["waitlist_drift"], &report["fixed"], &report["fenced"]);
    assert_eq!(seen, (&json!(users), &json!(fixed), &json!(fenced)), "{report:#}");
    let named = report["named"].as_array().unwrap();
    assert!(named.len() == users && named.iter().all(|named| named["kind"] == "waitlist"), "{report:#}");
}

#[tokio::test]
async fn a_line_that_was_deleted_by_hand_is_restored_by_a_rebuild_once_no_request_can_still_run() {
    let sale = Sale::start().await;
    let (order, places) = sold_out_with_a_line(&sale).await;
    let epoch = sale.epoch();
    sale.redis_cli(&["DEL", LINE, LINE_ORDERS]);
    assert_drift(&compare(&sale, true).await, 0, 0, false);
    let_rows_age(&sale);
    assert_drift(&compare(&sale, false).await, 3, 0, false);
    assert_eq!(sale.epoch(), epoch, "without an order nothing is repaired");
    assert_drift(&compare(&sale, true).await, 3, 0, true);
    until_line_is_whole(&sale, &places, "the rebuild").await;
    assert_drift(&compare(&sale, true).await, 0, 0, false);
    revoke(&sale, &order).await;
    until_served(&sale, "bob", &places[0]).await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn rows_of_requests_that_died_are_removed_and_a_place_without_a_row_gets_one_while_claims_go_on() {
    let sale = Sale::start().await;
    let (_, places) = sold_out_with_a_line(&sale).await;
    let epoch = sale.epoch();
    sale.psql(
        "insert into waitlist (order_id, number, coupon_id, user_id) overriding system value
         values ('01900000-0000-7000-8000-000000000001', 0, 'coffee', 'bob');
         delete from waitlist where user_id = 'carol'",
    );
    let_rows_age(&sale);
    assert_drift(&compare(&sale, false).await, 2, 0, false);
    assert_drift(&compare(&sale, true).await, 2, 2, false);
    assert_eq!(unserved(&sale), rows_of(&WAITING, &places));
    assert_drift(&compare(&sale, true).await, 0, 0, false);
    assert_eq!(sale.epoch(), epoch, "no rebuild");
    sale.redis_cli(&["FLUSHALL"]);
    until("a new epoch is in force", async || (sale.epoch() != epoch).then_some(())).await;
    // The new row has no earlier number.
    for (user, number) in [("bob", 1), ("dave", 2), ("carol", 3)] {
        until("the line is there again", async || {
            (place(&sale, user).await.body["place"] == number).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_user_who_was_served_and_is_not_recorded_yet_is_no_difference() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    let worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    sold_out_with_a_line(&sale).await;
    sale.until_quiet().await;
    assert!(worker.stop().success());
    let more = Some(json!({"total": 2}));
    assert_eq!(sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", more).await.status, 200);
    until("bob is served", async || (sale.redis_cli(&["ZCARD", LINE]) == "2").then_some(())).await;
    let_rows_age(&sale);
    assert_drift(&compare(&sale, true).await, 0, 0, false);
}
