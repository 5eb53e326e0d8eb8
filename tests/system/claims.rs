//! A claim from the request to its order, and many users who claim at the same time.

use std::collections::HashSet;

use futures_util::StreamExt;

use support::Sale;

#[tokio::test]
async fn a_claim_becomes_an_order_that_redis_cli_and_psql_show() {
    let sale = Sale::start().await;
    sale.create("coffee", 100).await;
    let answer = sale.claim("coffee", "alice").await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    assert_eq!(answer.body["stock"], 99);
    assert_eq!(answer.body["status"], "accepted");
    let order = answer.body["order"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), format!("/v1/coupons/coffee/claims/{order}"));

    let entry = sale.redis_cli(&["XREVRANGE", "seckill:{0}:orders", "+", "-", "COUNT", "1"]);
    let fields: Vec<&str> = entry.lines().skip(1).collect();
    assert_eq!(fields, ["order", &order, "coupon", "coffee", "user", "alice"]);

    sale.until_quiet().await;
    let row = sale.psql("select id, coupon_id, user_id, status from orders");
    assert_eq!(row, format!("{order}|coffee|alice|confirmed"));
    let seen = sale.get_as(&sale.token("alice"), answer.header("location")).await;
    assert_eq!((seen.status, &seen.body["status"]), (200, &"confirmed".into()), "{}", seen.text);
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn ten_thousand_users_racing_for_a_hundred_units_get_exactly_a_hundred_orders() {
    let sale = Sale::start().await;
    sale.create("coffee", 100).await;
    let answers: Vec<_> = futures_util::stream::iter(0..10_000)
        .map(|n| {
            let sale = &sale;
            async move { (n, sale.claim("coffee", &format!("user-{n}")).await) }
        })
        .buffer_unordered(256)
        .collect()
        .await;
    let winners: HashSet<_> =
        answers.iter().filter(|(_, answer)| answer.status == 202).map(|(n, _)| n).collect();
    let losers =
        answers.iter().filter(|(_, answer)| answer.status == 409 && answer.code() == "sold-out").count();
    assert_eq!((winners.len(), losers), (100, 9_900));

    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 0);
    assert_eq!(sale.psql("select count(*), count(distinct user_id) from orders"), "100|100");
    let owners = sale.psql("select user_id from orders");
    let expected: HashSet<String> = winners.iter().map(|n| format!("user-{n}")).collect();
    assert_eq!(owners.lines().map(str::to_owned).collect::<HashSet<_>>(), expected);
}

#[tokio::test]
async fn one_user_sending_two_hundred_requests_at_once_gets_one_order() {
    let sale = Sale::start().await;
    sale.create("coffee", 100).await;
    let answers: Vec<_> = futures_util::stream::iter(0..200)
        .map(|_| sale.claim("coffee", "alice"))
        .buffer_unordered(200)
        .collect()
        .await;
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    let repeated = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((accepted, repeated), (1, 199));
    let orders: HashSet<_> = answers.iter().map(|answer| answer.body["order"].as_str().unwrap()).collect();
    assert_eq!(orders.len(), 1);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 99);
}
