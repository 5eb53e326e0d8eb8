//! The life of a recorded order: who may confirm, cancel, revoke and see it, and the answer for each status. The tests
//! move deadlines in Postgres instead of waiting.

mod faults;
mod races;
mod revocations;
mod unrecorded;

use reqwest::Method;
use serde_json::{Value, json};

use support::{Answer, Sale};

/// Creates a coupon whose orders are reserved for 15 minutes.
async fn create_reserving(sale: &Sale, total: i64) {
    sale.create_with("coffee", json!({"total": total, "reserve_seconds": 900})).await;
}

/// Claims a coffee and waits until its order is recorded; returns the order's id.
async fn order_of(sale: &Sale, user: &str) -> String {
    let answer = sale.claim_with("coffee", user, &[("prefer", "wait=10")]).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.body["order"].as_str().unwrap().to_owned()
}

/// Sends `confirm` or `cancel` as a user.
async fn ask(sale: &Sale, user: &str, order: &str, transition: &str) -> Answer {
    let authorization = format!("Bearer {}", sale.token(user));
    let path = format!("/v1/orders/{order}/{transition}");
    sale.send(Method::POST, &path, &[("authorization", &authorization)], None).await
}

async fn ask_as_admin(sale: &Sale, order: &str, transition: &str) -> Answer {
    sale.admin(Method::POST, &format!("/v1/orders/{order}/{transition}"), None).await
}

async fn revoke(sale: &Sale, order: &str, return_unit: bool) -> Answer {
    let body = json!({"reason": "paid with a stolen card", "return_unit": return_unit});
    sale.admin(Method::POST, &format!("/v1/admin/orders/{order}/revoke"), Some(body)).await
}

/// Ends the order's time to pay; the order stays reserved.
fn end_time_to_pay(sale: &Sale, order: &str) {
    sale.psql(&format!("update orders set reserved_until = clock_timestamp() where id = '{order}'"));
}

/// Ends the order as the sweeper does.
fn expire(sale: &Sale, order: &str) {
    sale.psql(&format!(
        "with ended as (update orders set status = 'expired', ended_at = clock_timestamp()
            where id = '{order}' and status = 'reserved' returning *),
         returned as (update coupons set stock = stock + 1 where exists (select from ended))
         insert into outbox (order_id, coupon_id, user_id, slot) select id, coupon_id, user_id, slot from ended"
    ));
}

#[track_caller]
fn assert_order(answer: &Answer, order: &str, status: &str) {
    assert_eq!(
        (answer.status, &answer.body["order"], &answer.body["status"]),
        (200, &json!(order), &json!(status)),
        "{}",
        answer.text
    );
}

/// Checks the code of the refusal, and whether the answer says that a refund is due.
#[track_caller]
fn assert_refused(answer: &Answer, code: &str, refund_due: &Value) {
    answer.assert_problem(409, code);
    assert_eq!(&answer.body["refund_due"], refund_due, "{}", answer.text);
}

/// The value of a metric without labels.
async fn metric(sale: &Sale, name: &str) -> String {
    let text = sale.get("/metrics").await.text;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).map(str::to_owned);
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[tokio::test]
async fn a_reserved_order_is_confirmed_by_its_owner_or_the_admin_and_every_repeat_answers_the_same() {
    let sale = Sale::start().await;
    create_reserving(&sale, 5).await;
    let (mine, theirs) = (order_of(&sale, "alice").await, order_of(&sale, "bob").await);
    for _ in 0..2 {
        let confirmed = ask(&sale, "alice", &mine, "confirm").await;
        assert_order(&confirmed, &mine, "confirmed");
        assert!(
            confirmed.body["reserved_until"].is_string() && confirmed.body["ended_at"].is_null(),
            "{confirmed:?}"
        );
        assert_order(&ask_as_admin(&sale, &theirs, "confirm").await, &theirs, "confirmed");
        for viewer in [sale.token("alice"), sale.admin_token()] {
            let seen = sale.get_as(&viewer, &format!("/v1/orders/{mine}")).await;
            assert_order(&seen, &mine, "confirmed");
            assert_eq!(seen.header("cache-control"), "no-store");
        }
    }
    assert_eq!(metric(&sale, "seckill_orders_confirmed_total").await, "2");
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 3);
}

#[tokio::test]
async fn a_cancelled_order_returns_its_unit_and_its_user_may_claim_again() {
    let sale = Sale::start().await;
    create_reserving(&sale, 1).await;
    let order = order_of(&sale, "alice").await;
    sale.claim("coffee", "bob").await.assert_problem(409, "sold-out");
    for _ in 0..2 {
        let cancelled = ask(&sale, "alice", &order, "cancel").await;
        assert_order(&cancelled, &order, "cancelled");
        assert!(
            cancelled.body["ended_at"].is_string() && cancelled.body["reason"].is_null(),
            "{cancelled:?}"
        );
    }
    assert_eq!(metric(&sale, "seckill_orders_cancelled_total").await, "1");
    let again = order_of(&sale, "alice").await;
    assert_ne!(again, order);
    assert_order(&ask(&sale, "alice", &order, "cancel").await, &order, "cancelled");
    assert_refused(&ask(&sale, "alice", &order, "confirm").await, "order-cancelled", &Value::Null);
    assert_order(&ask_as_admin(&sale, &again, "cancel").await, &again, "cancelled");
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 1);
}

#[tokio::test]
async fn a_confirm_after_the_time_to_pay_is_refused_for_ever_and_says_that_a_refund_is_due() {
    // Without workers there is no sweeper: the time alone decides.
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    create_reserving(&sale, 5).await;
    let worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    let (one, two) = (order_of(&sale, "alice").await, order_of(&sale, "bob").await);
    sale.until_quiet().await;
    worker.stop();
    for order in [&one, &two] {
        end_time_to_pay(&sale, order);
    }
    assert_refused(&ask(&sale, "alice", &one, "confirm").await, "order-expired", &json!(true));
    assert_refused(&ask(&sale, "alice", &one, "cancel").await, "order-expired", &Value::Null);
    assert_eq!(sale.psql("select count(*) from orders where status = 'reserved'"), "2");
    expire(&sale, &one);
    for _ in 0..2 {
        assert_refused(&ask_as_admin(&sale, &one, "confirm").await, "order-expired", &json!(true));
    }
    assert_refused(&ask(&sale, "alice", &one, "cancel").await, "order-expired", &Value::Null);
    assert_eq!(metric(&sale, "seckill_refunds_due_total").await, "3");
    let log = sale.log();
    assert!(log.contains(&format!("order {one} was confirmed too late")) && !log.contains(&two), "{log}");
}

#[tokio::test]
async fn a_confirmed_order_is_not_cancelled_and_a_rejected_one_answers_rejected() {
    let sale = Sale::start().await;
    create_reserving(&sale, 2).await;
    let order = order_of(&sale, "alice").await;
    ask(&sale, "alice", &order, "confirm").await;
    let refused = ask(&sale, "alice", &order, "cancel").await;
    assert_refused(&refused, "order-confirmed", &Value::Null);
    assert_eq!(refused.body["order"], json!(order));

    let rejected = order_of(&sale, "bob").await;
    sale.until_quiet().await;
    sale.psql(&format!("update orders set status = 'rejected', reason = 'a test' where id = '{rejected}'"));
    for transition in ["confirm", "cancel"] {
        assert_refused(&ask(&sale, "bob", &rejected, transition).await, "rejected", &Value::Null);
    }
}

#[tokio::test]
async fn only_its_owner_and_the_admin_find_an_order() {
    let sale = Sale::start().await;
    create_reserving(&sale, 5).await;
    let order = order_of(&sale, "alice").await;
    for transition in ["confirm", "cancel"] {
        ask(&sale, "mallory", &order, transition).await.assert_problem(404, "not-found");
        let path = format!("/v1/orders/{order}/{transition}");
        sale.send(Method::POST, &path, &[], None).await.assert_problem(401, "unauthorized");
    }
    let path = format!("/v1/orders/{order}");
    let stranger = sale.get_as(&sale.token("mallory"), &path).await;
    stranger.assert_problem(404, "not-found");
    sale.get(&path).await.assert_problem(401, "unauthorized");
    let unknown =
        sale.get_as(&sale.token("mallory"), "/v1/orders/01a20dfc-6229-756f-bc31-2593204e6701").await;
    assert_eq!(unknown.body["detail"], stranger.body["detail"], "an order of another user is as unknown");
    assert_eq!(sale.psql("select status from orders"), "reserved");
    assert_order(&sale.get_as(&sale.token("alice"), &path).await, &order, "reserved");
}

#[tokio::test]
async fn a_body_of_a_confirm_is_absent_or_an_object() {
    let sale = Sale::start().await;
    create_reserving(&sale, 5).await;
    let order = order_of(&sale, "alice").await;
    let path = format!("/v1/orders/{order}/confirm");
    let wrong = sale.admin(Method::POST, &path, Some(json!([1]))).await;
    wrong.assert_problem(400, "bad-request");
    assert_eq!(sale.psql("select status from orders"), "reserved");
    let right = sale.admin(Method::POST, &path, Some(json!({"payment": 7}))).await;
    assert_order(&right, &order, "confirmed");
    ask_as_admin(&sale, "not-an-id", "confirm").await.assert_problem(400, "bad-request");
}
