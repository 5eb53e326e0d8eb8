//! Each feature, for the coupons of every partition.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    NUMBERS, ask, assert_orders_in_their_partitions, assert_whole, buy, create_in_each, order_of, orders_key,
    patch, receipt, revoke, start, start_with, until_stock,
};
use support::events::EventReader;
use support::{Answer, Sale, until};

#[tokio::test]
async fn coupons_spread_over_the_partitions_and_each_partition_has_its_own_stream() {
    let sale = start_with(&[("SECKILL_WORKERS", "0")]).await;
    let coupons = create_in_each(&sale, "tea", json!({"total": 10})).await;
    create_in_each(&sale, "rum", json!({"total": 10})).await;
    let counts = sale.psql("select partition, count(*) from coupons group by 1 order by 1");
    assert_eq!(counts, "0|2\n2|2\n3|2");
    // A different number of claims in each partition.
    for (coupon, claims) in coupons.iter().zip(1..) {
        for n in 0..claims {
            assert_eq!(sale.claim(coupon, &format!("user-{n}")).await.status, 202);
        }
    }
    let lengths = NUMBERS.map(|number| sale.redis_cli(&["XLEN", &orders_key(number)]));
    assert_eq!(lengths, ["1", "2", "3"]);
    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "2")]);
    sale.until_quiet().await;
    assert_eq!(sale.psql("select partition, count(*) from orders group by 1 order by 1"), "0|1\n2|2\n3|3");
    assert_orders_in_their_partitions(&sale);
    for (coupon, number) in coupons.iter().zip(NUMBERS) {
        let again = sale.claim(coupon, "user-0").await;
        assert_eq!(again.status, 200, "{}", again.text);
        let row = format!("select partition from orders where id = '{}'", order_of(&again));
        assert_eq!(sale.psql_number(&row), i64::from(number));
    }
}

#[tokio::test]
async fn orders_of_every_partition_are_confirmed_cancelled_expired_and_revoked() {
    let sale = start().await;
    let coupons = create_in_each(&sale, "seat", json!({"total": 10, "reserve_seconds": 900})).await;
    for coupon in &coupons {
        let order = async |user: &str| buy(&sale, coupon, user).await;
        let paid = order("alice").await;
        let again = sale.claim(coupon, "alice").await;
        assert_eq!((again.status, order_of(&again)), (200, paid.clone()), "{}", again.text);
        assert_eq!(ask(&sale, "alice", &paid, "confirm").await.body["status"], "confirmed");
        let cancelled = order("bob").await;
        for _ in 0..2 {
            assert_eq!(ask(&sale, "bob", &cancelled, "cancel").await.body["status"], "cancelled");
        }
        let expired = order("carol").await;
        sale.psql(&format!("update orders set reserved_until = clock_timestamp() where id = '{expired}'"));
        for (user, return_unit) in [("dave", true), ("erin", false)] {
            let revoked = order(user).await;
            assert_eq!(ask(&sale, user, &revoked, "confirm").await.status, 200);
            let answer = revoke(&sale, &revoked, return_unit).await;
            assert_eq!(answer.body["status"], "cancelled", "{}", answer.text);
        }
        until("the sweeper expires the order", async || {
            let shown = sale.get_as(&sale.token("carol"), &format!("/v1/orders/{expired}")).await;
            (shown.body["status"] == "expired").then_some(())
        })
        .await;
        order("frank").await;
    }
    assert_whole(&sale, &coupons, 6).await;
    assert_orders_in_their_partitions(&sale);
    for coupon in &coupons {
        // A withdrawn unit left the sale.
        let counts = receipt(&sale, coupon).await;
        let seen = ["total", "stock", "reserved", "confirmed", "returned"].map(|name| counts[name].as_i64());
        assert_eq!(seen, [9, 7, 1, 1, 3].map(Some), "{counts}");
    }
}

async fn waitlist(sale: &Sale, method: Method, coupon: &str, user: &str) -> Answer {
    let authorization = format!("Bearer {}", sale.token(user));
    let path = format!("/v1/coupons/{coupon}/waitlist");
    sale.send(method, &path, &[("authorization", &authorization)], None).await
}

#[tokio::test]
async fn a_waiting_list_of_every_partition_is_joined_left_and_served() {
    let sale = start().await;
    let coupons = create_in_each(&sale, "line", json!({"total": 1, "waitlist": true})).await;
    for coupon in &coupons {
        let sold = buy(&sale, coupon, "alice").await;
        for (user, place) in [("bob", 1), ("carol", 2)] {
            let joined = waitlist(&sale, Method::POST, coupon, user).await;
            assert_eq!((joined.status, &joined.body["place"]), (201, &json!(place)), "{}", joined.text);
        }
        let left = waitlist(&sale, Method::DELETE, coupon, "bob").await;
        assert!([200, 204].contains(&left.status), "{}", left.text);
        let promised = waitlist(&sale, Method::GET, coupon, "carol").await;
        assert_eq!(promised.body["place"], 1, "{}", promised.text);
        let listed = sale.admin(Method::GET, &format!("/v1/admin/coupons/{coupon}/waitlist"), None).await;
        assert_eq!(listed.body["items"].as_array().map(Vec::len), Some(1), "{}", listed.text);
        assert_eq!(revoke(&sale, &sold, true).await.status, 200);
        until("carol is served", async || {
            let answer = waitlist(&sale, Method::GET, coupon, "carol").await;
            (answer.body["status"] == "confirmed").then(|| assert_eq!(order_of(&answer), order_of(&promised)))
        })
        .await;
    }
    assert_whole(&sale, &coupons, 3).await;
    assert_orders_in_their_partitions(&sale);
}

#[tokio::test]
async fn a_user_gets_one_order_for_each_key_in_every_partition() {
    let sale = start().await;
    let coupons = create_in_each(&sale, "pair", json!({"total": 5, "per_user_limit": 2})).await;
    let mut orders = HashSet::new();
    for coupon in &coupons {
        let claim = async |key: &str| sale.claim_with(coupon, "alice", &[("idempotency-key", key)]).await;
        for key in ["one", "two"] {
            let first = claim(key).await;
            assert_eq!(first.status, 202, "{}", first.text);
            assert_eq!(order_of(&claim(key).await), order_of(&first));
            assert!(orders.insert(order_of(&first)), "the same key in another coupon is another claim");
        }
        claim("three").await.assert_problem(409, "limit-reached");
        sale.until_quiet().await;
        let held = sale.get_as(&sale.token("alice"), &format!("/v1/coupons/{coupon}/claims")).await;
        assert_eq!(held.body["items"].as_array().map(Vec::len), Some(2), "{}", held.text);
    }
    assert_whole(&sale, &coupons, 6).await;
    let own = sale.get_as(&sale.token("alice"), "/v1/orders").await;
    let own: HashSet<String> = own.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["order"].as_str().unwrap().into())
        .collect();
    assert_eq!(own, orders, "one list has the orders of all partitions");
}

fn ids(answer: &Answer) -> Vec<String> {
    let items = answer.body["items"].as_array().unwrap_or_else(|| panic!("{}", answer.text));
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// Reads all pages of one coupon each.
async fn pages(sale: &Sale, path: &str) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let answer = sale.admin(Method::GET, &format!("{path}?limit=1{after}"), None).await;
        all.extend(ids(&answer));
        match &answer.body["next"] {
            Value::String(next) => after = format!("&after={next}"),
            _ => return all,
        }
    }
}

#[tokio::test]
async fn lists_events_restocks_and_pauses_reach_the_coupons_of_every_partition() {
    let sale = start().await;
    let coupons = create_in_each(&sale, "tea", json!({"total": 1})).await;
    let sorted = ["tea-1", "tea-2", "tea-3"];
    for path in ["/v1/coupons", "/v1/admin/coupons"] {
        assert_eq!(ids(&sale.admin(Method::GET, path, None).await), sorted, "{path}");
        assert_eq!(pages(&sale, path).await, sorted, "{path}");
    }
    let mut events = EventReader::open(&sale, "/v1/events", &[]).await;
    let first = events.until_named("current").await;
    let sent: Vec<&str> = first.iter().filter_map(|event| event.data["id"].as_str()).collect();
    assert_eq!(sent, sorted);
    for coupon in &coupons {
        let mut own = EventReader::open(&sale, &format!("/v1/coupons/{coupon}/events"), &[]).await;
        own.until_named("current").await;
        let is = |what: &'static str| {
            move |event: &support::events::Event| {
                event.data["id"] == coupon.as_str() && event.data["state"] == what
            }
        };
        buy(&sale, coupon, "alice").await;
        sale.claim(coupon, "bob").await.assert_problem(409, "sold-out");
        events.until("sold out", is("sold_out")).await;
        own.until("sold out", is("sold_out")).await;
        let restocked = patch(&sale, coupon, json!({"total": 3})).await;
        assert_eq!((restocked.status, &restocked.body["stock"]), (200, &json!(2)), "{}", restocked.text);
        assert_eq!(patch(&sale, coupon, json!({"paused": true})).await.status, 200);
        events.until("a pause", is("paused")).await;
        sale.claim(coupon, "bob").await.assert_problem(409, "paused");
        assert_eq!(patch(&sale, coupon, json!({"paused": false})).await.status, 200);
        buy(&sale, coupon, "bob").await;
        until_stock(&sale, coupon, 1).await;
    }
    assert_whole(&sale, &coupons, 6).await;
    sale.get("/v1/coupons/unknown").await.assert_problem(404, "unknown-coupon");
    sale.claim("unknown", "alice").await.assert_problem(404, "unknown-coupon");
}
