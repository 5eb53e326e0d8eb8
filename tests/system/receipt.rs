//! The receipt of a coupon: it adds up in a running sale, and shows each order that was changed by hand in one store.

use reqwest::Method;
use serde_json::{Value, json};

use support::{Answer, Sale, until};

async fn receipt(sale: &Sale, coupon: &str) -> Answer {
    sale.admin(Method::GET, &format!("/v1/admin/coupons/{coupon}/receipt"), None).await
}

/// These members of a document, in this order.
fn members(body: &Value, names: &[&str]) -> Vec<i64> {
    names.iter().map(|name| body[name].as_i64().unwrap_or_else(|| panic!("{name}: {body}"))).collect()
}

const COUNTS: [&str; 7] = ["total", "stock", "accepted", "reserved", "confirmed", "returned", "rejected"];
const LISTED: [&str; 4] = ["accepted", "reserved", "confirmed", "returned"];

#[tokio::test]
async fn the_counts_are_those_of_the_orders_in_each_state() {
    let sale = Sale::start().await;
    sale.create_with("coffee", json!({"total": 10, "reserve_seconds": 900})).await;
    let mut orders = Vec::new();
    for user in ["alice", "bob", "carol", "dave", "erin"] {
        let claimed = sale.claim_with("coffee", user, &[("prefer", "wait=10")]).await;
        assert_eq!(claimed.status, 201, "{}", claimed.text);
        orders.push(claimed.body["order"].as_str().unwrap().to_owned());
    }
    let path = |order: &str, change: &str| format!("/v1/orders/{order}/{change}");
    for (order, change) in [(&orders[0], "confirm"), (&orders[1], "confirm"), (&orders[2], "cancel")] {
        assert_eq!(sale.admin(Method::POST, &path(order, change), None).await.status, 200);
    }
    for (order, return_unit) in [(&orders[0], true), (&orders[1], false)] {
        let revoke = format!("/v1/admin/orders/{order}/revoke");
        let body = json!({"reason": "fraud", "return_unit": return_unit});
        assert_eq!(sale.admin(Method::POST, &revoke, Some(body)).await.status, 200);
    }
    assert_eq!(sale.admin(Method::POST, &path(&orders[3], "confirm"), None).await.status, 200);
    sale.until_quiet().await;
    // An event of a slot that the coupon does not have is rejected; its unit is not in the claims hash.
    let bad = "01a20ddb-383c-73ca-9e44-c5cfc51aaa8d";
    let fields = ["order", bad, "coupon", "coffee", "user", "mallory", "slot", "9", "key", "k"];
    sale.redis_cli(&[&["XADD", "seckill:{0}:orders", "*"], &fields[..]].concat());
    until("the event is rejected", async || {
        (sale.psql_number("select count(*) from orders where status = 'rejected'") == 1).then_some(())
    })
    .await;
    sale.until_quiet().await;

    let answer = receipt(&sale, "coffee").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(members(&answer.body, &COUNTS), [9, 7, 0, 1, 1, 2, 1], "{}", answer.text);
    assert_eq!(answer.body["adds_up"], true, "{}", answer.text);
    assert_eq!(answer.body["exceptions"], json!([]));
    assert_eq!((&answer.body["off_by"], &answer.body["returning"]), (&json!(0), &json!(0)));

    let shown = sale.admin(Method::GET, "/v1/admin/coupons/coffee", None).await;
    assert_eq!(members(&shown.body, &LISTED), [0, 1, 1, 2], "{}", shown.text);
    let listed = sale.admin(Method::GET, "/v1/admin/coupons", None).await;
    assert_eq!(members(&listed.body["items"][0], &LISTED), [0, 1, 1, 2], "{}", listed.text);

    // A claim that cannot be recorded yet is accepted.
    let lock = sale.lock_coupon("coffee").await;
    assert_eq!(sale.claim("coffee", "frank").await.status, 202);
    sale.until_a_worker_waits().await;
    let answer = receipt(&sale, "coffee").await;
    assert_eq!(members(&answer.body, &COUNTS), [9, 6, 1, 1, 1, 2, 1], "{}", answer.text);
    assert_eq!(answer.body["adds_up"], true, "{}", answer.text);
    let shown = sale.admin(Method::GET, "/v1/admin/coupons/coffee", None).await;
    assert_eq!(members(&shown.body, &LISTED), [1, 1, 1, 2], "{}", shown.text);
    drop(lock);
}

#[tokio::test]
async fn the_route_is_for_the_admin_and_for_coupons_that_exist() {
    let sale = Sale::start().await;
    sale.create("coffee", 1).await;
    let path = "/v1/admin/coupons/coffee/receipt";
    sale.get(path).await.assert_problem(401, "unauthorized");
    sale.get_as(&sale.token("alice"), path).await.assert_problem(401, "unauthorized");
    sale.admin(Method::POST, path, None).await.assert_problem(405, "method-not-allowed");
    receipt(&sale, "tea").await.assert_problem(404, "unknown-coupon");
    receipt(&sale, "-").await.assert_problem(400, "bad-request");
}
