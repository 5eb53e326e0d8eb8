//! The admin ends confirmed orders; their units return to stock or leave the sale.

use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use support::{Sale, until};

use super::{ask, assert_order, assert_refused, create_reserving, metric, order_of, revoke};

/// Lets new users claim the coupon until `is_over`; returns the number of accepted claims.
async fn hammer(sale: &Sale, crowd: &str, is_over: &AtomicBool) -> usize {
    let mut number = 0;
    let mut accepted = 0;
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        let answer = sale.claim("coffee", &format!("{crowd}-{number}")).await;
        assert!(answer.status == 202 || answer.code() == "sold-out", "{}", answer.text);
        accepted += usize::from(answer.status == 202);
    }
    accepted
}

#[tokio::test]
async fn a_withdrawn_unit_is_never_claimable_and_a_returned_one_is_claimed_once() {
    let sale = Sale::start().await;
    sale.create("coffee", 3).await;
    let mut orders = Vec::new();
    for user in ["alice", "bob", "carol"] {
        orders.push(order_of(&sale, user).await);
    }
    let is_over = AtomicBool::new(false);
    let revocations = async {
        for _ in 0..2 {
            let ended = revoke(&sale, &orders[0], false).await;
            assert_order(&ended, &orders[0], "cancelled");
            assert_eq!(ended.body["reason"], "paid with a stolen card");
        }
        until("the unit is released", async || {
            (sale.psql_number("select count(*) from outbox") == 0).then_some(())
        })
        .await;
        assert_eq!(sale.psql("select total, stock, version from coupons"), "2|0|2");
        assert_eq!(sale.psql("select count(*) from orders"), "3", "no claim was accepted");
        for _ in 0..2 {
            assert_order(&revoke(&sale, &orders[1], true).await, &orders[1], "cancelled");
        }
        until("the unit is claimed", async || {
            (sale.psql_number("select count(*) from orders") == 4).then_some(())
        })
        .await;
        is_over.store(true, Ordering::Relaxed);
    };
    let crowds = async { tokio::join!(hammer(&sale, "north", &is_over), hammer(&sale, "south", &is_over)) };
    let (accepted, ()) = tokio::join!(crowds, revocations);
    assert_eq!(accepted.0 + accepted.1, 1);
    sale.assert_in_agreement("coffee").await;
    let statuses = "select count(*) filter (where status = 'confirmed'), count(*) filter (where status = 'rejected') from orders";
    assert_eq!(sale.psql(statuses), "2|0");
    assert_eq!(metric(&sale, "seckill_orders_revoked_total").await, "2");
    let log = "select string_agg(actor || ' ' || action || ' ' || (new ->> 'return_unit'), ', ' order by id) from audit_log
        where action = 'revoke' and coupon_id = 'coffee' and order_id is not null";
    assert_eq!(sale.psql(log), "admin revoke false, admin revoke true");
}

#[tokio::test]
async fn only_confirmed_orders_are_revoked_and_each_refusal_says_what_to_do() {
    let sale = Sale::start().await;
    create_reserving(&sale, 5).await;
    let order = order_of(&sale, "alice").await;
    let refused = revoke(&sale, &order, true).await;
    assert_refused(&refused, "order-reserved", &Value::Null);
    assert!(refused.body["detail"].as_str().unwrap().contains("cancel it instead"), "{}", refused.text);
    ask(&sale, "alice", &order, "cancel").await;
    assert_refused(&revoke(&sale, &order, true).await, "order-cancelled", &Value::Null);

    let order = order_of(&sale, "bob").await;
    ask(&sale, "bob", &order, "confirm").await;
    assert_order(&revoke(&sale, &order, true).await, &order, "cancelled");
    assert_refused(&ask(&sale, "bob", &order, "confirm").await, "order-cancelled", &Value::Null);
    assert_order(&ask(&sale, "bob", &order, "cancel").await, &order, "cancelled");
    let seen = sale.get_as(&sale.token("bob"), &format!("/v1/orders/{order}")).await;
    assert_eq!(seen.body["reason"], "paid with a stolen card", "the user sees why");
    sale.assert_in_agreement("coffee").await;
    let unknown = revoke(&sale, "01a20dfc-6229-756f-bc31-2593204e6701", true).await;
    unknown.assert_problem(404, "not-found");
}

#[tokio::test]
async fn the_only_unit_of_a_coupon_is_returned_and_not_withdrawn() {
    let sale = Sale::start().await;
    sale.create("coffee", 1).await;
    let order = order_of(&sale, "alice").await;
    let refused = revoke(&sale, &order, false).await;
    refused.assert_problem(409, "total-too-low");
    assert_eq!(sale.psql("select status from orders"), "confirmed");
    assert_order(&revoke(&sale, &order, true).await, &order, "cancelled");
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 1);
}

#[tokio::test]
async fn a_revocation_needs_the_admin_a_reason_and_a_decision_about_the_unit() {
    let sale = Sale::start().await;
    sale.create("coffee", 2).await;
    let order = order_of(&sale, "alice").await;
    let path = format!("/v1/admin/orders/{order}/revoke");
    for wrong in [
        json!({}),
        json!({"reason": "x"}),
        json!({"return_unit": true}),
        json!({"reason": "x", "return_unit": null}),
        json!({"reason": "", "return_unit": true}),
        json!({"reason": "a\nb", "return_unit": true}),
        json!({"reason": "x".repeat(501), "return_unit": true}),
        json!({"reason": "x", "return_unit": true, "refund": true}),
    ] {
        sale.admin(Method::POST, &path, Some(wrong)).await.assert_problem(400, "bad-request");
    }
    let authorization = format!("Bearer {}", sale.token("alice"));
    let body = json!({"reason": "x", "return_unit": true});
    let by_user = sale.send(Method::POST, &path, &[("authorization", &authorization)], Some(body)).await;
    by_user.assert_problem(401, "unauthorized");
    assert_eq!(sale.psql("select status from orders"), "confirmed");
    let body = json!({"reason": "x".repeat(500), "return_unit": true});
    assert_order(&sale.admin(Method::POST, &path, Some(body)).await, &order, "cancelled");
}
