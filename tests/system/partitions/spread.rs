//! A coupon with shares in several partitions: every unit is sold once, whichever shares the users claim at, and no user is told
//! "sold out" while a unit is free.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use reqwest::Method;
use seckill::domain::{Partition, home};
use serde_json::json;
use support::{Answer, Sale, until};

use super::{NUMBERS, start};

const COUPON: &str = "hot";

/// The number of the first users, whose names begin with `prefix`, that claim at the partition.
fn users_at(partition: i16, prefix: &str, count: usize) -> Vec<String> {
    let shares = NUMBERS.map(Partition::new);
    let is_there = |user: &String| home(&shares, &user.parse().unwrap()) == Some(Partition::new(partition));
    (0..).map(|n| format!("{prefix}-{n}")).filter(is_there).take(count).collect()
}

async fn create(sale: &Sale, total: i64) {
    sale.create_with(COUPON, json!({"total": total, "spread": 3})).await;
}

async fn claim_all(sale: &Sale, users: &[String]) -> Vec<Answer> {
    let claims = users.iter().map(|user| sale.claim(COUPON, user));
    futures_util::stream::iter(claims).buffer_unordered(16).collect().await
}

fn count(answers: &[Answer]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.status).or_default() += 1;
    }
    counts
}

/// Both stores agree on every share, and the shares add up to the whole.
async fn assert_whole(sale: &Sale, total: i64, held: i64) {
    sale.until_quiet().await;
    until("no unit is on its way", async || {
        let rows =
            sale.psql("select partition, total, stock, version = published_version from coupons order by 1");
        let mut sums = (0, 0, 0);
        for row in rows.lines() {
            let [partition, row_total, row_stock, is_published] = row.split('|').collect::<Vec<_>>()[..]
            else {
                panic!("{row}")
            };
            let key = format!("seckill:{{{partition}}}:coupon:{COUPON}");
            let in_redis = |field: &str| -> i64 {
                sale.redis_cli(&["HGET", &key, field])
                    .trim()
                    .parse()
                    .unwrap_or_else(|error| panic!("{field}: {error}"))
            };
            let claims: i64 = sale
                .redis_cli(&["HLEN", &format!("seckill:{{{partition}}}:claims:{COUPON}")])
                .trim()
                .parse()
                .unwrap();
            assert_eq!(in_redis("stock") + claims, in_redis("total"), "partition {partition}");
            assert_eq!(in_redis("whole"), total);
            if is_published != "t"
                || in_redis("total").to_string() != row_total
                || in_redis("stock").to_string() != row_stock
            {
                return None;
            }
            sums = (sums.0 + in_redis("total"), sums.1 + in_redis("stock"), sums.2 + claims);
        }
        assert_eq!(sums, (total, total - held, held));
        Some(())
    })
    .await;
    let live = sale.psql_number("select count(*) from orders where status in ('reserved', 'confirmed')");
    assert_eq!(live, held);
    assert_eq!(sale.psql_number("select count(distinct user_id) from orders"), held);
}

#[tokio::test]
async fn users_of_one_share_get_the_units_of_all() {
    let sale = start().await;
    create(&sale, 30).await;
    let users = users_at(2, "user", 40);
    let answers = claim_all(&sale, &users).await;
    assert_eq!(count(&answers), BTreeMap::from([(202, 30), (409, 10)]), "{:?}", answers[0].text);
    assert_eq!(sale.psql_number("select count(distinct partition) from orders"), 1);
    assert_whole(&sale, 30, 30).await;
    let again = claim_all(&sale, &users).await;
    assert_eq!(count(&again), BTreeMap::from([(200, 30), (409, 10)]));
    let receipt = sale.admin(Method::GET, &format!("/v1/admin/coupons/{COUPON}/receipt"), None).await;
    let shown = ["total", "stock", "confirmed", "adds_up"].map(|field| receipt.body[field].clone());
    assert_eq!(shown, [json!(30), json!(0), json!(30), json!(true)], "{}", receipt.text);
    let listed = sale.admin(Method::GET, "/v1/admin/coupons", None).await;
    assert_eq!(listed.body["items"].as_array().map(Vec::len), Some(1), "{}", listed.text);
    let compared = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({}))).await;
    assert_eq!((compared.status, &compared.body["definition_drift"]), (200, &json!(0)), "{}", compared.text);
    assert_eq!(&compared.body["stock_drift"], &json!(0), "{}", compared.text);
    // The log has takes and the publications of moves.
    let audit = sale.command().args(["audit", "--json", "--aof"]).arg(sale.data_dir()).output().unwrap();
    assert!(audit.status.success(), "{audit:?}");
}

#[tokio::test]
async fn users_of_all_shares_get_every_unit_once() {
    let sale = start().await;
    create(&sale, 50).await;
    let users: Vec<String> = (0..120).map(|n| format!("user-{n}")).collect();
    let answers = claim_all(&sale, &users).await;
    assert_eq!(count(&answers), BTreeMap::from([(202, 50), (409, 70)]));
    assert!(sale.psql_number("select count(distinct partition) from orders") > 1);
    assert_whole(&sale, 50, 50).await;
    let shown = sale.get(&format!("/v1/coupons/{COUPON}")).await;
    assert_eq!(
        (&shown.body["total"], &shown.body["stock"], &shown.body["state"]),
        (&json!(50), &json!(0), &json!("sold_out"))
    );
}

#[tokio::test]
async fn an_edit_changes_the_whole_and_no_unit_is_lost() {
    let sale = start().await;
    create(&sale, 9).await;
    let path = format!("/v1/admin/coupons/{COUPON}");
    let first = sale.admin(Method::GET, &path, None).await;
    assert_eq!(first.body["shares"].as_array().map(Vec::len), Some(3), "{}", first.text);
    claim_all(&sale, &users_at(0, "early", 5)).await;

    let edit = async |body| sale.admin(Method::PATCH, &path, Some(body)).await;
    let raised = edit(json!({"total": 20, "title": "Hot"})).await;
    assert_eq!(
        (raised.status, &raised.body["total"], &raised.body["stock"]),
        (200, &json!(20), &json!(15)),
        "{}",
        raised.text
    );
    assert_eq!(sale.psql("select distinct title, whole from coupons"), "Hot|20");
    assert_whole(&sale, 20, 5).await;

    let again = claim_all(&sale, &users_at(0, "early", 1)).await;
    assert_eq!((again[0].status, &again[0].body["stock"]), (200, &json!(15)), "the stock of all shares");
    let lowered = edit(json!({"total": 6})).await;
    assert_eq!(
        (lowered.status, &lowered.body["total"], &lowered.body["stock"]),
        (200, &json!(6), &json!(1)),
        "{}",
        lowered.text
    );
    let refused = edit(json!({"total": 4})).await;
    assert_eq!((refused.status, &refused.body["code"]), (409, &json!("total-too-low")), "{}", refused.text);
    assert_whole(&sale, 6, 5).await;
    let answers = claim_all(&sale, &users_at(3, "late", 2)).await;
    assert_eq!(count(&answers), BTreeMap::from([(202, 1), (409, 1)]));
    assert_whole(&sale, 6, 6).await;
}

#[tokio::test]
async fn an_abandoned_take_gives_its_units_back() {
    let sale = start().await;
    create(&sale, 9).await;
    // As `take.lua` leaves it when the process that moves the units dies.
    let key = format!("seckill:{{3}}:coupon:{COUPON}");
    sale.redis_cli(&["HSET", &key, "stock", "0", "total", "0", "taken", "3", "taken_for", "2"]);
    let answers = claim_all(&sale, &users_at(2, "user", 9)).await;
    let accepted = count(&answers).get(&202).copied().unwrap_or(0);
    assert!(!count(&answers).contains_key(&409), "three units are on their way: {:?}", count(&answers));
    until("the take is cancelled", async || {
        (sale.redis_cli(&["HGET", &key, "taken"]).trim() == "0").then_some(())
    })
    .await;
    let again = claim_all(&sale, &users_at(2, "user", 12)).await;
    assert_eq!(count(&again), BTreeMap::from([(200, accepted), (202, 9 - accepted), (409, 3)]));
    assert_whole(&sale, 9, 9).await;
}

#[tokio::test]
async fn a_spread_needs_as_many_partitions_and_no_waiting_list() {
    let sale = start().await;
    let create = async |body| sale.admin(Method::POST, "/v1/admin/coupons", Some(body)).await;
    let too_many = create(json!({"id": COUPON, "total": 9, "spread": 4})).await;
    assert_eq!(too_many.status, 400);
    assert!(too_many.text.contains("SECKILL_PARTITIONS=4"), "{}", too_many.text);
    let waitlist = create(json!({"id": COUPON, "total": 9, "spread": 2, "waitlist": true})).await;
    assert_eq!(waitlist.status, 400, "{}", waitlist.text);
    let created = create(json!({"id": COUPON, "total": 9, "spread": 2})).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let repeated = create(json!({"id": COUPON, "total": 9, "spread": 2})).await;
    assert_eq!(repeated.status, 200, "{}", repeated.text);
    for other in [json!({"id": COUPON, "total": 9}), json!({"id": COUPON, "total": 8, "spread": 2})] {
        assert_eq!(create(other).await.status, 409);
    }
}
