//! Events that cannot be recorded, in every partition.

use reqwest::Method;
use serde_json::json;

use super::{NUMBERS, assert_whole, buy, create_in_each, order_of, orders_key, start};
use support::{REFUSE_SOME, until};

#[tokio::test]
async fn equal_entry_ids_in_two_streams_give_two_dead_letters() {
    let sale = start().await;
    let coupons = create_in_each(&sale, "tea", json!({"total": 5})).await;
    // Far in the future: later than every entry of the program.
    let id = "99999999999999-7";
    for number in NUMBERS {
        sale.redis_cli(&["XADD", &orders_key(number), id, "made", &format!("by hand {number}")]);
    }
    until("each entry has a dead letter", async || {
        (sale.psql_number("select count(*) from dead_letters") == 3).then_some(())
    })
    .await;
    sale.until_quiet().await;
    let rows =
        "select partition, entry_id, position(convert_to('by hand ' || partition, 'utf8') in fields) > 0
        from dead_letters order by partition";
    assert_eq!(sale.psql(rows), format!("0|{id}|t\n2|{id}|t\n3|{id}|t"));
    let listed = sale.admin(Method::GET, "/v1/admin/dead", None).await;
    let mut seen: Vec<i64> = listed.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| letter["partition"].as_i64().unwrap())
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [0, 2, 3], "{}", listed.text);
    for coupon in &coupons {
        buy(&sale, coupon, "alice").await;
    }
    assert_whole(&sale, &coupons, 3).await;
}

#[tokio::test]
async fn a_dead_letter_of_every_partition_returns_its_unit_and_is_replayed() {
    let sale = start().await;
    let coupons = create_in_each(&sale, "tea", json!({"total": 5})).await;
    sale.psql(REFUSE_SOME);
    for (coupon, number) in coupons.iter().zip(NUMBERS) {
        let user = format!("doomed-{number}");
        let dead = order_of(&sale.claim(coupon, &user).await);
        let letter = until("the event has a dead letter", async || {
            let row = format!("select id, partition from dead_letters where order_id = '{dead}'");
            Some(sale.psql(&row)).filter(|row| !row.is_empty())
        })
        .await;
        let (letter, partition) = letter.split_once('|').unwrap();
        assert_eq!(partition, number.to_string());
        sale.assert_in_agreement(coupon).await;
        let replay = format!("/v1/admin/dead/{letter}/replay");
        let replayed = sale.admin(Method::POST, &replay, None).await;
        assert_eq!(replayed.status, 202, "{}", replayed.text);
        sale.until_quiet().await;
        let again = sale.admin(Method::POST, &replay, None).await;
        assert_eq!((again.status, order_of(&again)), (200, order_of(&replayed)), "{}", again.text);
        let row = format!("select partition, status from orders where id = '{}'", order_of(&replayed));
        assert_eq!(sale.psql(&row), format!("{number}|confirmed"));
    }
    assert_whole(&sale, &coupons, 3).await;
}
