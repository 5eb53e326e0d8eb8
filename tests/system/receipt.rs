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

    // The count of reserved orders may be a little older than the request.
    until("the coupon shows the counts", async || {
        let shown = sale.admin(Method::GET, "/v1/admin/coupons/coffee", None).await;
        let listed = sale.admin(Method::GET, "/v1/admin/coupons", None).await;
        let both = [&shown.body, &listed.body["items"][0]].map(|coupon| members(coupon, &LISTED));
        (both == [[0, 1, 1, 2], [0, 1, 1, 2]]).then_some(())
    })
    .await;

    let winners = sale.admin(Method::GET, "/v1/admin/coupons/coffee/winners?limit=1", None).await;
    assert_eq!(winners.body["items"][0]["user"], "dave", "{}", winners.text);
    let after = winners.body["next"].as_str().unwrap();
    let path = format!("/v1/admin/coupons/coffee/winners?after={after}");
    let winners = sale.admin(Method::GET, &path, None).await;
    assert_eq!((&winners.body["items"][0]["user"], &winners.body["next"]), (&json!("erin"), &Value::Null));
    let csv = sale.command().args(["audit", "coffee", "--csv"]).output().unwrap();
    let csv = String::from_utf8(csv.stdout).unwrap();
    assert_eq!((csv.lines().count(), csv.matches(",dave,1,confirmed,").count()), (3, 1), "{csv}");

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
    sale.admin(Method::GET, &format!("{path}?compare=x"), None).await.assert_problem(400, "bad-request");
}

/// Kind, user and order of each exception, sorted.
fn exceptions(body: &Value) -> Vec<[String; 3]> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let rows = body["exceptions"].as_array().unwrap_or_else(|| panic!("{body}"));
    let mut rows: Vec<[String; 3]> =
        rows.iter().map(|row| ["kind", "user", "order"].map(|name| text(&row[name]))).collect();
    rows.sort();
    rows
}

/// A sale of coffee with five confirmed orders, and the orders of user-0 to user-4.
async fn sold() -> (Sale, Vec<String>) {
    let sale = Sale::start().await;
    sale.create("coffee", 9).await;
    let mut orders = Vec::new();
    for number in 0..5 {
        let claimed = sale.claim("coffee", &format!("user-{number}")).await;
        orders.push(claimed.body["order"].as_str().unwrap().to_owned());
    }
    sale.until_quiet().await;
    (sale, orders)
}

/// Changes one store by hand, and reads the receipt before the program repairs it by itself.
async fn after_change(sale: &Sale, change: impl Fn()) -> Value {
    until("a receipt after the change", async || {
        sale.until_ready().await;
        change();
        let answer = receipt(sale, "coffee").await;
        (answer.status == 200 && answer.body["adds_up"] == false).then_some(answer.body)
    })
    .await
}

const CLAIMS: &str = "seckill:{0}:claims:coffee";

#[tokio::test]
async fn a_claim_that_was_deleted_in_redis_is_shown_with_its_user() {
    let (sale, orders) = sold().await;
    let body = after_change(&sale, || drop(sale.redis_cli(&["HDEL", CLAIMS, "user-2"]))).await;
    assert_eq!(
        exceptions(&body),
        [["missing_claim", "user-2", &orders[2]], ["redis_stock", "-", "-"]]
            .map(|row| row.map(str::to_owned)),
        "{body}"
    );
    assert_eq!(members(&body, &["off_by", "stock", "confirmed"]), [1, 4, 5], "{body}");
}

#[tokio::test]
async fn a_stock_that_was_edited_in_either_store_is_shown() {
    let (sale, _) = sold().await;
    let body = after_change(&sale, || {
        drop(sale.redis_cli(&["HSET", "seckill:{0}:coupon:coffee", "stock", "6"]));
    })
    .await;
    assert_eq!(exceptions(&body), [["redis_stock", "-", "-"].map(str::to_owned)], "{body}");
    assert_eq!(members(&body, &["off_by"]), [-2], "{body}");
    sale.redis_cli(&["HSET", "seckill:{0}:coupon:coffee", "stock", "4"]);
    sale.until_quiet().await;
    sale.psql("update coupons set stock = 3 where id = 'coffee'");
    let body = receipt(&sale, "coffee").await.body;
    assert_eq!(exceptions(&body), [["postgres_stock", "-", "-"].map(str::to_owned)], "{body}");
    assert_eq!(members(&body, &["off_by"]), [1], "{body}");
}

#[tokio::test]
async fn rows_that_were_deleted_or_changed_in_postgres_are_shown_with_their_users() {
    let (sale, orders) = sold().await;
    sale.psql(&format!("delete from orders where id = '{}'", orders[0]));
    sale.psql(&format!("update orders set status = 'cancelled' where id = '{}'", orders[1]));
    // The sum in Postgres holds again: only the orders show what was changed.
    sale.psql("update coupons set stock = stock + 2 where id = 'coffee'");
    // Another order in the field of a user: no row is right, and the user's own order is not held.
    let other = "01a20ddb-383c-73ca-9e44-c5cfc51aaa8d";
    sale.redis_cli(&["HSET", CLAIMS, "user-3", other, "user-4", "nonsense"]);
    let quick = sale.admin(Method::GET, "/v1/admin/coupons/coffee/receipt?compare=false", None).await;
    assert_eq!(
        (&quick.body["compared"], &quick.body["adds_up"]),
        (&json!(false), &json!(true)),
        "{}",
        quick.text
    );
    let body = receipt(&sale, "coffee").await.body;
    let expected = [
        ["foreign_field", "user-4", "-"],
        ["lost_event", "user-0", &orders[0]],
        ["lost_event", "user-3", other],
        ["missed_release", "user-1", &orders[1]],
        ["missing_claim", "user-3", &orders[3]],
        ["missing_claim", "user-4", &orders[4]],
    ];
    let mut expected = expected.map(|row| row.map(str::to_owned));
    expected.sort();
    assert_eq!(exceptions(&body), expected, "{body}");
    assert_eq!((&body["adds_up"], &body["exceptions_found"]), (&json!(false), &json!(6)), "{body}");
    assert_eq!(members(&body, &["off_by"]), [2], "{body}");
}

#[tokio::test]
async fn units_of_a_long_outbox_that_are_in_stock_already_are_not_on_their_way() {
    // Without workers the rows stay, as those of a worker that has returned the units and not yet deleted the rows.
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 9).await;
    sale.psql(
        "with ended as (
            insert into orders (id, coupon_id, user_id, status, claimed_at, ended_at)
            select gen_random_uuid(), 'coffee', 'user-' || n, 'cancelled', now(), now()
            from generate_series(1, 2500) n returning id, coupon_id, user_id
         )
         insert into outbox (order_id, coupon_id, user_id) select id, coupon_id, user_id from ended",
    );
    let body = receipt(&sale, "coffee").await.body;
    assert_eq!(members(&body, &["total", "stock", "returning", "off_by"]), [9, 9, 0, 0], "{body}");
}

#[tokio::test]
async fn a_unit_that_another_order_holds_is_shown_although_each_sum_holds() {
    let (sale, orders) = sold().await;
    let other = "01a20ddb-383c-73ca-9e44-c5cfc51aaa8d";
    sale.redis_cli(&["HSET", CLAIMS, "user-3", other]);
    let body = receipt(&sale, "coffee").await.body;
    let expected = [["lost_event", "user-3", other], ["missing_claim", "user-3", &orders[3]]];
    assert_eq!(exceptions(&body), expected.map(|row| row.map(str::to_owned)), "{body}");
    assert_eq!(members(&body, &["off_by", "stock", "confirmed"]), [0, 4, 5], "{body}");
    assert_eq!(body["adds_up"], false, "{body}");
    let audit = sale.command().args(["audit", "coffee"]).output().unwrap();
    assert_eq!(audit.status.code(), Some(1), "{audit:?}");
}

#[tokio::test]
async fn every_receipt_of_a_running_sale_adds_up() {
    const BUYERS: usize = 6;
    const RECEIPTS: usize = 25;
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "2")]).await;
    sale.create_with("coffee", json!({"total": 40, "reserve_seconds": 1, "waitlist": true})).await;
    let done = tokio_util::sync::CancellationToken::new();
    let buyers = futures_util::future::join_all((0..BUYERS).map(|buyer| buy(&sale, buyer, &done)));
    let restocks = async {
        for total in (41..).take_while(|_| !done.is_cancelled()) {
            let edit = Some(json!({ "total": total }));
            let answer = sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", edit).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    };
    let read = async {
        let mut seen = std::collections::BTreeSet::new();
        let mut read = 0;
        // Also until the sale has shown each state.
        while read < RECEIPTS || seen.len() < 5 {
            let answer = receipt(&sale, "coffee").await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let body = answer.body;
            assert_eq!((&body["adds_up"], &body["off_by"]), (&json!(true), &json!(0)), "{body}");
            let counts = members(&body, &["total", "stock", "accepted", "reserved", "confirmed"]);
            assert_eq!(counts[0], counts[1..].iter().sum::<i64>(), "{body}");
            for name in ["accepted", "reserved", "confirmed", "returned", "returning"] {
                if body[name] != 0 {
                    seen.insert(name);
                }
            }
            read += 1;
        }
        done.cancel();
        println!("{read} receipts");
    };
    tokio::join!(buyers, restocks, read);
    until("the last orders have expired", async || {
        (sale.psql_number("select count(*) from orders where status = 'reserved'") == 0).then_some(())
    })
    .await;
    sale.assert_in_agreement("coffee").await;
    let body = receipt(&sale, "coffee").await.body;
    assert_eq!(body["adds_up"], true, "{body}");
    let returned = "select count(*) from orders where status in ('cancelled', 'expired')";
    assert_eq!(members(&body, &["returned"]), [sale.psql_number(returned)], "{body}");
}

/// Claims as one new user after another; every third confirms, every third cancels, the others let the order expire.
async fn buy(sale: &Sale, buyer: usize, done: &tokio_util::sync::CancellationToken) {
    for number in (0..).take_while(|_| !done.is_cancelled()) {
        let user = format!("user-{buyer}-{number}");
        let prefer: &[(&str, &str)] = if number % 2 == 0 { &[("prefer", "wait=10")] } else { &[] };
        let claimed = sale.claim_with("coffee", &user, prefer).await;
        if claimed.status == 409 {
            continue;
        }
        assert!((200..300).contains(&claimed.status), "{}", claimed.text);
        let order = claimed.body["order"].as_str().unwrap();
        let change = ["confirm", "cancel", ""][number % 3];
        if !change.is_empty() {
            let path = format!("/v1/orders/{order}/{change}");
            let answer = sale.admin(Method::POST, &path, None).await;
            assert!([200, 409, 503].contains(&answer.status), "{}", answer.text);
        }
    }
}
