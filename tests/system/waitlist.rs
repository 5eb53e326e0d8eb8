//! The waiting list of a sold-out coupon: the units that come back go to the users in line, in the order of joining.

mod comparison;
mod crowds;
mod faults;
mod leaving;
mod losses;
mod orders;

use reqwest::Method;
use serde_json::{Value, json};

use support::{Answer, Sale, until};

const LINE: &str = "seckill:{0}:waitlist:coffee";
const LINE_ORDERS: &str = "seckill:{0}:waitlist-orders:coffee";
/// Users in the order of joining.
const WAITING: [&str; 3] = ["bob", "carol", "dave"];

/// Makes coffee with a waiting list.
async fn create(sale: &Sale, total: i64) {
    sale.create_with("coffee", json!({"total": total, "waitlist": true})).await;
}

async fn ask(sale: &Sale, method: Method, user: &str) -> Answer {
    ask_with(sale, method, user, &[]).await
}

async fn ask_with(sale: &Sale, method: Method, user: &str, headers: &[(&str, &str)]) -> Answer {
    let authorization = format!("Bearer {}", sale.token(user));
    let mut all = vec![("authorization", authorization.as_str())];
    all.extend(headers);
    sale.send(method, "/v1/coupons/coffee/waitlist", &all, None).await
}

async fn join(sale: &Sale, user: &str) -> Answer {
    ask(sale, Method::POST, user).await
}

/// Joins again until the request is answered.
async fn join_until_done(sale: &Sale, user: &str) -> Answer {
    until("the request to join is answered", async || {
        let answer = join(sale, user).await;
        (![0, 503].contains(&answer.status)).then_some(answer)
    })
    .await
}

/// Sells one unit, lets the users wait in turn; returns the order of the unit and those that the users get.
async fn sold_out_with_a_line(sale: &Sale) -> (String, Vec<Value>) {
    create(sale, 1).await;
    let order = buy(sale, "alice").await;
    let mut places = Vec::new();
    for (user, number) in WAITING.into_iter().zip(1..) {
        let answer = join(sale, user).await;
        assert_place(&answer, 201, number, number);
        places.push(answer.body["order"].clone());
    }
    (order, places)
}

/// Waits until the users have the places of `sold_out_with_a_line` again.
async fn until_line_is_whole(sale: &Sale, places: &[Value], after: &str) {
    for ((user, number), order) in WAITING.into_iter().zip(1..).zip(places) {
        until(&format!("{user} has the place after {after}"), async || {
            let answer = place(sale, user).await;
            let seen = (answer.status, &answer.body["place"], &answer.body["order"], &answer.body["waiting"]);
            (seen == (200, &json!(number), order, &json!(3))).then_some(())
        })
        .await;
    }
}

/// Rows of users who were not served.
fn unserved(sale: &Sale) -> String {
    sale.psql("select user_id, order_id from waitlist where order_id not in (select id from orders) order by order_id")
}

/// The expected result of `unserved`.
fn rows_of(users: &[&str], orders: &[Value]) -> String {
    let rows = users.iter().zip(orders).map(|(user, order)| format!("{user}|{}", order.as_str().unwrap()));
    rows.collect::<Vec<_>>().join("\n")
}

async fn place(sale: &Sale, user: &str) -> Answer {
    ask(sale, Method::GET, user).await
}

async fn leave(sale: &Sale, user: &str) -> Answer {
    ask(sale, Method::DELETE, user).await
}

async fn buy(sale: &Sale, user: &str) -> String {
    let answer = sale.claim_with("coffee", user, &[("prefer", "wait=10")]).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.body["order"].as_str().unwrap().to_owned()
}

/// Ends a confirmed order; its unit returns.
async fn revoke(sale: &Sale, order: &str) {
    let body = json!({"reason": "test", "return_unit": true});
    let answer = sale.admin(Method::POST, &format!("/v1/admin/orders/{order}/revoke"), Some(body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[track_caller]
fn assert_place(answer: &Answer, status: u16, place: i64, waiting: i64) {
    let seen = (answer.status, &answer.body["status"], &answer.body["place"], &answer.body["waiting"]);
    assert_eq!(seen, (status, &json!("waiting"), &json!(place), &json!(waiting)), "{}", answer.text);
}

/// Waits until the user has got the order that the place promised.
async fn until_served(sale: &Sale, user: &str, order: &serde_json::Value) {
    until("the user is served", async || {
        let answer = place(sale, user).await;
        (answer.body["status"] == "confirmed").then(|| assert_eq!(&answer.body["order"], order))
    })
    .await;
}

#[tokio::test]
async fn a_unit_that_comes_back_goes_to_the_first_in_line_and_to_no_claim() {
    let sale = Sale::start().await;
    create(&sale, 2).await;
    join(&sale, "bob").await.assert_problem(409, "not-sold-out");
    let orders = [buy(&sale, "alice").await, buy(&sale, "anna").await];

    let bob = join(&sale, "bob").await;
    assert_place(&bob, 201, 1, 1);
    assert_place(&join(&sale, "carol").await, 201, 2, 2);
    let again = join(&sale, "bob").await;
    assert_place(&again, 200, 1, 2);
    assert_eq!(again.body["order"], bob.body["order"], "one place for each user");
    assert_place(&place(&sale, "carol").await, 200, 2, 2);
    let alice = join(&sale, "alice").await;
    assert_eq!((alice.status, &alice.body["order"]), (200, &json!(orders[0])), "{}", alice.text);
    place(&sale, "dave").await.assert_problem(404, "not-waiting");

    revoke(&sale, &orders[0]).await;
    until_served(&sale, "bob", &bob.body["order"]).await;
    assert_eq!(sale.redis_stock("coffee"), 0);
    sale.claim("coffee", "dave").await.assert_problem(409, "sold-out");
    assert_place(&place(&sale, "carol").await, 200, 1, 1);
    let left = leave(&sale, "bob").await;
    left.assert_problem(409, "already-served");
    assert_eq!(left.body["order"], bob.body["order"], "{}", left.text);

    for _ in 0..2 {
        assert_eq!(leave(&sale, "carol").await.status, 204);
    }
    place(&sale, "carol").await.assert_problem(404, "not-waiting");
    revoke(&sale, &orders[1]).await;
    sale.until_quiet().await;
    assert_eq!(sale.redis_stock("coffee"), 1, "no user waits");
    assert_eq!(sale.claim("coffee", "dave").await.status, 202);
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_restock_serves_the_line_first_and_a_pause_holds_it() {
    let sale = Sale::start().await;
    create(&sale, 1).await;
    buy(&sale, "alice").await;
    let mut places = Vec::new();
    for user in ["bob", "carol", "dave"] {
        places.push(join(&sale, user).await.body["order"].clone());
    }
    let path = "/v1/admin/coupons/coffee";
    let edit = |body| sale.admin(Method::PATCH, path, Some(body));
    assert_eq!(edit(json!({"paused": true, "total": 3})).await.status, 200);
    assert_place(&place(&sale, "bob").await, 200, 1, 3);
    assert_eq!(edit(json!({"paused": false})).await.status, 200);
    until_served(&sale, "bob", &places[0]).await;
    until_served(&sale, "carol", &places[1]).await;
    assert_place(&place(&sale, "dave").await, 200, 1, 1);
    assert_eq!(edit(json!({"total": 5})).await.status, 200);
    until_served(&sale, "dave", &places[2]).await;
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 1);
    let shown = sale.get(path.trim_start_matches("/v1/admin")).await;
    assert_eq!(shown.status, 404);
    let shown = sale.get("/v1/coupons/coffee").await;
    assert_eq!(
        (&shown.body["waitlist"], &shown.body["waiting"]),
        (&json!(true), &json!(0)),
        "{}",
        shown.text
    );
}

#[tokio::test]
async fn a_line_survives_the_loss_of_redis() {
    let sale = Sale::start().await;
    create(&sale, 1).await;
    let order = buy(&sale, "alice").await;
    let mut places = Vec::new();
    for user in ["bob", "carol", "dave"] {
        places.push(join(&sale, user).await.body["order"].clone());
    }
    sale.until_quiet().await;
    sale.redis_cli(&["FLUSHALL"]);
    until("the line is there again", async || {
        let answer = place(&sale, "dave").await;
        (answer.status == 200).then(|| assert_place(&answer, 200, 3, 3))
    })
    .await;
    revoke(&sale, &order).await;
    until_served(&sale, "bob", &places[0]).await;
    sale.redis_cli(&["FLUSHALL"]);
    until("the line is there again", async || {
        let answer = place(&sale, "dave").await;
        (answer.status == 200).then(|| assert_place(&answer, 200, 2, 2))
    })
    .await;
    assert_place(&place(&sale, "carol").await, 200, 1, 2);
    sale.assert_in_agreement("coffee").await;
}
