//! The audit log over HTTP and the command line: one row for each change by an admin, with the actor, the change and
//! the request id.

use reqwest::Method;
use seckill::postgres::dead_letters::encode_fields;
use serde_json::{Value, json};

use support::{Answer, Sale};

const AUDIT: &str = "/v1/admin/audit";
const COFFEE: &str = "/v1/admin/coupons/coffee";

/// Sends a request of the admin with this request id.
async fn send(sale: &Sale, request_id: &str, method: Method, path: &str, body: Value) -> Answer {
    let authorization = format!("Bearer {}", sale.admin_token());
    let headers = [("authorization", authorization.as_str()), ("x-request-id", request_id)];
    let answer = sale.send(method, path, &headers, Some(body)).await;
    assert!((200..300).contains(&answer.status), "{path}: {}", answer.text);
    answer
}

async fn list(sale: &Sale, query: &str) -> Vec<Value> {
    let answer = sale.admin(Method::GET, &format!("{AUDIT}{query}"), None).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["items"].as_array().unwrap().clone()
}

/// Actor, action, request id, old and new values of each row; the oldest row first.
async fn changes(sale: &Sale, query: &str) -> Vec<Value> {
    let fields = ["actor", "action", "request_id", "old", "new"];
    let rows = list(sale, query).await;
    rows.iter().rev().map(|row| fields.iter().map(|field| row[field].clone()).collect()).collect()
}

#[tokio::test]
async fn each_change_of_a_coupon_is_one_row_and_a_repeat_is_none() {
    let sale = Sale::start().await;
    let made = json!({"id": "coffee", "total": 10, "title": "Coffee", "ends_at": "2999-01-01T00:00:00.5Z"});
    for repeat in ["r1", "r1b"] {
        send(&sale, repeat, Method::POST, "/v1/admin/coupons", made.clone()).await;
    }
    let edits = [
        ("r2", json!({"total": 12})),
        ("r3", json!({"total": 7})),
        ("r4", json!({"paused": true})),
        ("r5", json!({"paused": false})),
        ("r6", json!({"title": "Espresso", "total": 9, "ends_at": null})),
        ("r7", json!({"starts_at": "2001-01-01T00:00:00Z"})),
    ];
    for (request_id, edit) in &edits {
        for _ in 0..2 {
            send(&sale, request_id, Method::PATCH, COFFEE, edit.clone()).await;
        }
    }
    // Refused: a different coupon with an existing id, a total below the held units, an unknown coupon, a stale
    // version.
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    assert_eq!(sale.claim("coffee", "bob").await.status, 202);
    let other = Some(json!({"id": "coffee", "total": 11}));
    assert_eq!(sale.admin(Method::POST, "/v1/admin/coupons", other).await.code(), "coupon-exists");
    let lower = Some(json!({"total": 1}));
    assert_eq!(sale.admin(Method::PATCH, COFFEE, lower.clone()).await.code(), "total-too-low");
    assert_eq!(sale.admin(Method::PATCH, "/v1/admin/coupons/tea", lower).await.code(), "unknown-coupon");

    let new = json!({
        "total": 10, "paused": false, "title": "Coffee", "starts_at": null, "ends_at": "2999-01-01T00:00:00.5Z",
        "per_user_limit": 1, "reserve_seconds": null, "durability": "redis", "waitlist": false, "unlisted": false
    });
    let expected = [
        json!(["admin", "create", "r1", null, new]),
        json!(["admin", "restock", "r2", {"total": 10}, {"total": 12}]),
        json!(["admin", "withdraw", "r3", {"total": 12}, {"total": 7}]),
        json!(["admin", "pause", "r4", {"paused": false}, {"paused": true}]),
        json!(["admin", "resume", "r5", {"paused": true}, {"paused": false}]),
        json!([
            "admin", "edit", "r6",
            {"title": "Coffee", "total": 7, "ends_at": "2999-01-01T00:00:00.5Z"},
            {"title": "Espresso", "total": 9, "ends_at": null}
        ]),
        json!(["admin", "edit", "r7", {"starts_at": null}, {"starts_at": "2001-01-01T00:00:00Z"}]),
    ];
    assert_eq!(changes(&sale, "").await, expected);
    assert_eq!(changes(&sale, "?coupon=coffee").await, expected);
    assert_eq!(changes(&sale, "?coupon=tea").await, [json!(null); 0]);
    let row = list(&sale, "?limit=1").await.remove(0);
    let minutes = sale.psql(&format!("select now() - '{}' < interval '1 min'", row["at"].as_str().unwrap()));
    assert_eq!((row["coupon"].as_str(), minutes.as_str()), (Some("coffee"), "t"), "{row}");

    let log = sale.command().args(["coupon", "log", "coffee"]).output().unwrap();
    let log = String::from_utf8(log.stdout).unwrap();
    assert_eq!(log.lines().count(), 1 + 1 + 1 + 1 + 1 + 3 + 1 + 8, "{log}");
    assert!(log.contains("admin  restock   total: 10 -> 12\n"), "{log}");
}

#[tokio::test]
async fn the_request_id_is_the_one_that_the_answer_carries() {
    let sale = Sale::start().await;
    let made = sale.admin(Method::POST, "/v1/admin/coupons", Some(json!({"id": "tea", "total": 1}))).await;
    assert_eq!(list(&sale, "").await[0]["request_id"], made.header("x-request-id"));
}

#[tokio::test]
async fn the_audit_log_has_a_replayed_and_a_discarded_dead_letter() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    let order = "01a20ddb-383c-73ca-9e44-c5cfc51aaa8d";
    let fields = encode_fields(&["order", order, "coupon", "coffee", "user", "alice"]);
    let fields = String::from_utf8(fields).unwrap().replace('\r', "\\r").replace('\n', "\\n");
    sale.psql(&format!(
        "insert into dead_letters (order_id, fields, error)
         values ('{order}', convert_to(E'{fields}', 'UTF8'), 'x'), (null, '', 'y')"
    ));
    let replayed = send(&sale, "r1", Method::POST, "/v1/admin/dead/1/replay", json!({})).await;
    for action in ["1/replay", "1/discard", "2/discard", "2/discard"] {
        send(&sale, action, Method::POST, &format!("/v1/admin/dead/{action}"), json!({})).await;
    }
    let replaced_by = &replayed.body["order"];
    let expected = [
        json!(["admin", "replay", "r1", null, {"letter": 1, "replaced_by": replaced_by}]),
        json!(["admin", "discard", "2/discard", null, {"letter": 2}]),
    ];
    assert_eq!(changes(&sale, "").await[1..], expected);
    assert_eq!(changes(&sale, &format!("?order={order}")).await, expected[..1]);
    assert_eq!(changes(&sale, "?coupon=coffee").await[1..], expected[..1]);
}

#[tokio::test]
async fn the_audit_log_has_ordered_rebuilds_and_repairs_and_no_automatic_ones() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    let (old, reconcile) = (sale.epoch(), "/v1/admin/reconcile");
    send(&sale, "r1", Method::POST, reconcile, json!({"rebuild": true})).await;
    sale.until_ready().await;
    let new = sale.epoch();
    for (request_id, stock) in [("r2", 3), ("r3", 5)] {
        sale.psql(&format!("update coupons set stock = {stock} where id = 'coffee'"));
        for order in [json!({}), json!({"fix": true}), json!({"fix": true})] {
            send(&sale, request_id, Method::POST, reconcile, order).await;
        }
    }
    let claimed = sale.claim_with("coffee", "alice", &[("prefer", "wait=10")]).await;
    let order = claimed.body["order"].as_str().unwrap();
    sale.psql(&format!("update orders set status = 'cancelled' where id = '{order}'"));
    sale.psql("update coupons set stock = stock + 1");
    send(&sale, "r4", Method::POST, reconcile, json!({"fix": true})).await;
    // After a flush the fence rebuilds without an order of an operator.
    sale.redis_cli(&["FLUSHALL"]);
    support::until("the fence has rebuilt", async || (sale.epoch() != new).then_some(())).await;
    sale.until_ready().await;
    let expected = [
        json!(["admin", "rebuild", "r1", {"epoch": old}, {"epoch": new}]),
        json!(["admin", "fix", "r2", {"stock": 3}, {"stock": 5}]),
        json!(["admin", "fix", "r4", null, {"difference": "missed_release"}]),
    ];
    assert_eq!(changes(&sale, "").await[1..], expected);
}

#[tokio::test]
async fn the_list_pages_and_is_for_the_admin_alone() {
    let sale = Sale::start().await;
    sale.create("coffee", 1).await;
    for total in 2..6 {
        send(&sale, "r", Method::PATCH, COFFEE, json!({ "total": total })).await;
    }
    let mut totals = Vec::new();
    let mut after = String::new();
    loop {
        let page = sale.admin(Method::GET, &format!("{AUDIT}?coupon=coffee&limit=2{after}"), None).await;
        let items = page.body["items"].as_array().unwrap();
        totals.extend(items.iter().map(|row| row["new"]["total"].as_i64().unwrap()));
        let Some(next) = page.body["next"].as_str() else { break };
        assert_eq!(items.len(), 2);
        after = format!("&after={next}");
    }
    assert_eq!(totals, [5, 4, 3, 2, 1]);
    for wrong in ["?coupon=-", "?order=1", "?after=x", "?after=-1", "?limit=0"] {
        sale.admin(Method::GET, &format!("{AUDIT}{wrong}"), None).await.assert_problem(400, "bad-request");
    }
    sale.get(AUDIT).await.assert_problem(401, "unauthorized");
    sale.get_as(&sale.token("alice"), AUDIT).await.assert_problem(401, "unauthorized");
    sale.admin(Method::DELETE, AUDIT, None).await.assert_problem(405, "method-not-allowed");
}
