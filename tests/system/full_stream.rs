//! A stream that has used its last id: whole claims are refused, a rebuild creates the stream again, and no event is
//! lost.

use support::{Sale, until};

const ORDERS: &str = "seckill:{0}:orders";
const COUPON: &str = "seckill:{0}:coupon:coffee";
const CLAIMS: &str = "seckill:{0}:claims:coffee";
const LAST_ID: &str = "18446744073709551615-18446744073709551615";

/// Claims until the claim is accepted. The first claim holds a unit only if it was accepted.
async fn claim_twice(sale: &Sale, user: &str) -> String {
    let first = sale.claim("coffee", user).await;
    assert!([202, 503].contains(&first.status), "{}", first.text);
    let is_held = sale.redis_cli(&["HEXISTS", CLAIMS, user]) == "1";
    assert_eq!(is_held, first.status == 202, "half made: {}", first.text);
    until("the claim is answered", async || {
        let answer = sale.claim("coffee", user).await;
        assert!([200, 202, 503].contains(&answer.status), "{}", answer.text);
        (answer.status != 503).then(|| answer.body["order"].as_str().unwrap().to_owned())
    })
    .await
}

#[tokio::test]
async fn a_stream_at_the_end_of_its_ids_costs_no_unit_and_is_recreated_once() {
    let sale = Sale::start().await;
    sale.create("coffee", 100).await;
    let mut orders = Vec::new();
    let ends: &[&[&str]] = &[
        &["XADD", ORDERS, LAST_ID, "hand", "made"],
        &["XADD", ORDERS, "18446744073709551615-0", "hand", "made"],
        &["XSETID", ORDERS, LAST_ID],
        &["XSETID", ORDERS, "18446744073709551615-18446744073709551614"],
    ];
    for (number, end) in ends.iter().enumerate() {
        let epoch = sale.epoch();
        sale.redis_cli(end);
        orders.push(claim_twice(&sale, &format!("user-{number}")).await);
        until(&format!("{end:?}: a rebuild creates the stream again"), async || {
            (sale.epoch() != epoch).then_some(())
        })
        .await;
        sale.assert_in_agreement("coffee").await;
        sale.assert_recorded(&orders);
        let last = sale.redis_cli(&["XINFO", "STREAM", ORDERS]);
        assert!(!last.contains("18446744073709551615-"), "{end:?}: {last}");
    }
    let rebuilds = sale.epoch().split('-').next().unwrap().parse::<usize>().unwrap() - 1;
    assert_eq!(rebuilds, ends.len(), "one rebuild for each");
}

#[tokio::test]
async fn an_id_in_the_far_future_stops_no_claims() {
    let sale = Sale::start().await;
    sale.create("coffee", 100).await;
    let epoch = sale.epoch();
    sale.redis_cli(&["XADD", ORDERS, "4102444800000-18446744073709551615", "hand", "made"]);
    let order = claim_twice(&sale, "alice").await;
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&[order]);
    assert_eq!(sale.epoch(), epoch);
}

#[tokio::test]
async fn events_that_only_a_full_stream_has_are_kept_whether_pending_or_unread() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0"), ("SECKILL_RECLAIM_AFTER", "200ms")]).await;
    sale.create("coffee", 100).await;
    let mut orders = Vec::new();
    for n in 0..6 {
        let answer = sale.claim("coffee", &format!("user-{n}")).await;
        orders.push(answer.body["order"].as_str().unwrap().to_owned());
    }
    let read = ["XREADGROUP", "GROUP", "order-writers", "gone", "COUNT", "3", "STREAMS", ORDERS, ">"];
    sale.redis_cli(&read);
    sale.redis_cli(&["XGROUP", "CREATE", ORDERS, "analytics", "0"]);
    let epoch = sale.epoch();
    // Does both at once: deletes the claims hash, and uses the stream's last id.
    let both = "redis.call('DEL', KEYS[1]) redis.call('XSETID', KEYS[2], ARGV[1])";
    sale.redis_cli(&["EVAL", both, "2", CLAIMS, ORDERS, LAST_ID]);
    until("a rebuild creates the stream again", async || (sale.epoch() != epoch).then_some(())).await;
    sale.until_ready().await;
    let groups = sale.redis_cli(&["XINFO", "GROUPS", ORDERS]);
    assert!(groups.contains("analytics"), "{groups}");
    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    until("all are recorded", async || (sale.psql_number("select count(*) from orders") == 6).then_some(()))
        .await;
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&orders);
    assert_eq!(sale.redis_cli(&["HGET", COUPON, "stock"]), "94");
}
