//! Who may join, and the life of the order that a user in line gets.

use reqwest::Method;
use serde_json::{Value, json};

use support::{Answer, Sale, until};

use super::{
    LINE, LINE_ORDERS, WAITING, ask_with, assert_place, buy, create, join, join_until_done, leave, place,
    revoke, sold_out_with_a_line, until_line_is_whole, until_served,
};

const COUPON: &str = "seckill:{0}:coupon:coffee";
const NO_WORKERS: (&str, &str) = ("SECKILL_WORKERS", "0");
const ONE_WORKER: (&str, &str) = ("SECKILL_WORKERS", "1");

async fn create_reserving(sale: &Sale, total: i64) {
    let fields = json!({"total": total, "reserve_seconds": 900, "waitlist": true});
    sale.create_with("coffee", fields).await;
}

/// Ends the time to pay of every reserved order of the user.
fn end_time_to_pay(sale: &Sale, user: &str) {
    sale.psql(&format!(
        "update orders set reserved_until = clock_timestamp() where user_id = '{user}' and status = 'reserved'"
    ));
}

async fn until_reserved(sale: &Sale, user: &str) -> Value {
    until("the user is served", async || {
        let answer = place(sale, user).await;
        (answer.body["status"] == "reserved").then_some(answer.body)
    })
    .await
}

async fn transition(sale: &Sale, user: &str, order: &Value, transition: &str) -> Answer {
    let authorization = format!("Bearer {}", sale.token(user));
    let path = format!("/v1/orders/{}/{transition}", order.as_str().unwrap());
    sale.send(Method::POST, &path, &[("authorization", &authorization)], None).await
}

#[tokio::test]
async fn a_unit_of_an_expired_or_cancelled_order_is_reserved_anew_for_the_next_in_line_who_can_confirm() {
    let sale = Sale::start().await;
    create_reserving(&sale, 1).await;
    buy(&sale, "alice").await;
    for user in WAITING {
        assert_eq!(join(&sale, user).await.status, 201);
    }
    end_time_to_pay(&sale, "alice");
    let bob = until_reserved(&sale, "bob").await;
    let fresh = "select extract(epoch from reserved_until - recorded_at) = 900 and reserved_until > now()
        from orders where user_id = 'bob'";
    assert_eq!(sale.psql(fresh), "t", "bob has the whole time to pay");
    assert_eq!(transition(&sale, "bob", &bob["order"], "cancel").await.status, 200);
    let carol = until_reserved(&sale, "carol").await;
    assert_eq!(transition(&sale, "carol", &carol["order"], "confirm").await.status, 200);
    let shown = place(&sale, "carol").await;
    assert_eq!((shown.status, &shown.body["status"]), (200, &json!("confirmed")), "{}", shown.text);
    let shown = place(&sale, "bob").await;
    assert_eq!((shown.status, &shown.body["status"]), (200, &json!("cancelled")), "{}", shown.text);
    assert_eq!(leave(&sale, "bob").await.status, 204, "an ended order is not in the way");
    assert_place(&place(&sale, "dave").await, 200, 1, 1);
    let again = join(&sale, "bob").await;
    assert_place(&again, 201, 2, 2);
    assert_ne!(again.body["order"], bob["order"], "another place is another order");
    assert_eq!(leave(&sale, "dave").await.status, 204);
    revoke(&sale, carol["order"].as_str().unwrap()).await;
    assert_eq!(until_reserved(&sale, "bob").await["order"], again.body["order"]);
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_join_by_the_holder_of_an_overdue_order_ends_it_and_the_unit_goes_to_the_first_in_line() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    create_reserving(&sale, 1).await;
    let worker = sale.spawn("worker", &[ONE_WORKER]);
    buy(&sale, "alice").await;
    sale.until_quiet().await;
    assert!(worker.stop().success());
    end_time_to_pay(&sale, "alice");
    // No user waits: the unit is in stock, and alice can claim it.
    join(&sale, "alice").await.assert_problem(409, "not-sold-out");
    let claim = sale.claim("coffee", "alice").await;
    assert_eq!(claim.status, 202, "{}", claim.text);
    let worker = sale.spawn("worker", &[ONE_WORKER]);
    sale.until_quiet().await;
    assert!(worker.stop().success());

    let bob = join(&sale, "bob").await;
    assert_place(&bob, 201, 1, 1);
    end_time_to_pay(&sale, "alice");
    assert_place(&join(&sale, "alice").await, 201, 1, 1);
    let served = place(&sale, "bob").await;
    assert_eq!((served.status, &served.body["order"]), (200, &bob.body["order"]), "{}", served.text);
    assert_eq!(served.body["status"], "accepted", "no worker has recorded it yet");
    let left = leave(&sale, "bob").await;
    left.assert_problem(409, "already-served");
    let _worker = sale.spawn("worker", &[ONE_WORKER]);
    until_reserved(&sale, "bob").await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_user_of_several_units_waits_with_a_key_that_also_finds_the_order() {
    let sale = Sale::start().await;
    sale.create_with("coffee", json!({"total": 2, "per_user_limit": 2, "waitlist": true})).await;
    let mut held = Vec::new();
    for key in ["a", "b"] {
        let headers = [("idempotency-key", key), ("prefer", "wait=10")];
        let answer = sale.claim_with("coffee", "alice", &headers).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        held.push(answer.body["order"].as_str().unwrap().to_owned());
    }
    let join_with = async |user, key| ask_with(&sale, Method::POST, user, &[("idempotency-key", key)]).await;
    join(&sale, "bob").await.assert_problem(400, "idempotency-key-required");
    join_with("alice", "c").await.assert_problem(409, "limit-reached");
    let known = join_with("alice", "b").await;
    assert_eq!((known.status, &known.body["order"]), (200, &json!(held[1])), "{}", known.text);
    let bob = join_with("bob", "k").await;
    assert_place(&bob, 201, 1, 1);
    for key in ["k", "other"] {
        let again = join_with("bob", key).await;
        assert_place(&again, 200, 1, 1);
        assert_eq!(again.body["order"], bob.body["order"], "one place for each user");
    }
    sale.redis_cli(&["FLUSHALL"]);
    until("the line is there again", async || (place(&sale, "bob").await.status == 200).then_some(())).await;
    revoke(&sale, &held[0]).await;
    until_served(&sale, "bob", &bob.body["order"]).await;
    let joined = join_with("bob", "k").await;
    assert_eq!((joined.status, &joined.body["order"]), (200, &bob.body["order"]), "{}", joined.text);
    let claimed = sale.claim_with("coffee", "bob", &[("idempotency-key", "k")]).await;
    assert_eq!((claimed.status, &claimed.body["order"]), (200, &bob.body["order"]), "{}", claimed.text);
    assert_place(&join_with("bob", "more").await, 201, 1, 1);
    assert_place(&join_with("alice", "c").await, 201, 2, 2);
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_coupon_that_has_ended_is_unknown_or_has_no_list_takes_no_user_in_line() {
    let sale = Sale::start().await;
    sale.create("coffee", 1).await;
    buy(&sale, "alice").await;
    join(&sale, "bob").await.assert_problem(409, "no-waitlist");
    place(&sale, "bob").await.assert_problem(404, "not-waiting");
    assert_eq!(leave(&sale, "bob").await.status, 204);

    let sale = Sale::start().await;
    join(&sale, "bob").await.assert_problem(404, "unknown-coupon");
    place(&sale, "bob").await.assert_problem(404, "unknown-coupon");
    let (order, _) = sold_out_with_a_line(&sale).await;
    let end = Some(json!({"ends_at": "2020-01-01T00:00:00Z"}));
    assert_eq!(sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", end).await.status, 200);
    join(&sale, "erin").await.assert_problem(409, "ended");
    revoke(&sale, &order).await;
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 1, "an ended sale serves no user");
    assert_place(&place(&sale, "bob").await, 200, 1, 3);
}

#[tokio::test]
async fn a_full_line_takes_the_next_user_when_one_leaves() {
    let sale = Sale::start().await;
    create(&sale, 1).await;
    buy(&sale, "alice").await;
    let order = join(&sale, "bob").await.body["order"].as_str().unwrap().to_owned();
    let fill = "for i = 2, 100000 do redis.call('ZADD', KEYS[1], i, 'user-' .. i) \
                redis.call('HSET', KEYS[2], 'user-' .. i, ARGV[1]) end";
    sale.redis_cli(&["EVAL", fill, "2", LINE, LINE_ORDERS, &order]);
    // The script kept Redis busy.
    join_until_done(&sale, "carol").await.assert_problem(409, "waitlist-full");
    assert_eq!(sale.psql_number("select count(*) from waitlist"), 1, "a refused user has no row");
    assert_place(&join(&sale, "bob").await, 200, 1, 100_000);
    assert_eq!(leave(&sale, "bob").await.status, 204);
    assert_place(&join(&sale, "carol").await, 201, 100_000, 100_000);
}

#[tokio::test]
async fn a_coupon_hash_of_an_older_version_without_the_field_is_completed_and_no_claim_is_refused() {
    let sale = Sale::start().await;
    sale.create("coffee", 3).await;
    buy(&sale, "alice").await;
    let epoch = sale.epoch();
    sale.redis_cli(&["HDEL", COUPON, "waitlist"]);
    assert_eq!(sale.claim("coffee", "bob").await.status, 202);
    join(&sale, "carol").await.assert_problem(409, "no-waitlist");
    until("the comparison has completed the hash", async || {
        (sale.redis_cli(&["HGET", COUPON, "waitlist"]) == "0").then_some(())
    })
    .await;
    assert_eq!(sale.claim("coffee", "carol").await.status, 202);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.epoch(), epoch, "no rebuild");
}

#[tokio::test]
async fn a_waiting_list_whose_field_was_deleted_serves_its_line_once_the_field_is_back() {
    let sale = Sale::start().await;
    let (order, places) = sold_out_with_a_line(&sale).await;
    let epoch = sale.epoch();
    sale.redis_cli(&["HDEL", COUPON, "waitlist"]);
    until_line_is_whole(&sale, &places, "a deleted field").await;
    assert_eq!(sale.epoch(), epoch, "no rebuild");
    revoke(&sale, &order).await;
    until_served(&sale, "bob", &places[0]).await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_line_is_no_difference_for_the_comparison_and_no_trouble_for_doctor() {
    let sale = Sale::start().await;
    let (order, places) = sold_out_with_a_line(&sale).await;
    revoke(&sale, &order).await;
    until_served(&sale, "bob", &places[0]).await;
    sale.until_quiet().await;
    let compared = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"fix": true}))).await;
    let report = &compared.body;
    assert_eq!((&report["named"], &report["fixed"]), (&json!([]), &json!(0)), "{report:#}");
    let doctor = sale.command().arg("doctor").output().unwrap();
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.status.success(), "{text}");
    assert_place(&place(&sale, "carol").await, 200, 1, 2);
}
