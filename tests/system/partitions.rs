//! Several partitions in one installation: each feature works for the coupons of every partition, and a partition that is
//! down, added or killed costs the others nothing.

mod down;
mod features;
mod growing;
mod kills;
mod letters;
mod spread;

use reqwest::Method;
use serde_json::{Value, json};

use support::{Answer, Sale, until};

/// The numbers that an installation with three partitions has.
const NUMBERS: [i16; 3] = [0, 2, 3];
const COUNTED: [&str; 10] = [
    "in_flight",
    "lost_events",
    "missed_releases",
    "missing_claims",
    "foreign_fields",
    "deleted_entries",
    "stock_drift",
    "definition_drift",
    "waitlist_drift",
    "fixed",
];

/// A sale with three partitions, all of them up.
async fn start() -> Sale {
    start_with(&[]).await
}

async fn start_with(environment: &[(&str, &str)]) -> Sale {
    let all = [&[("SECKILL_PARTITIONS", "3"), ("SECKILL_RECLAIM_AFTER", "200ms")], environment].concat();
    let sale = Sale::start_with(&all).await;
    until_all_up(&sale).await;
    sale
}

/// Waits until all of these partitions accept claims.
async fn until_up(sale: &Sale, partitions: &[i16]) {
    until(&format!("partitions {partitions:?} are up"), async || {
        let metrics = sale.get("/metrics").await.text;
        let is_up = |number: &i16| metrics.contains(&up_line(*number, 1));
        partitions.iter().all(is_up).then_some(())
    })
    .await;
}

async fn until_all_up(sale: &Sale) {
    until_up(sale, &NUMBERS).await;
}

fn up_line(partition: i16, value: u8) -> String {
    format!("seckill_partition_up{{partition=\"{partition}\"}} {value}\n")
}

fn orders_key(partition: i16) -> String {
    format!("seckill:{{{partition}}}:orders")
}

/// Creates a coupon with these fields in each partition; returns their ids in the order of `NUMBERS`.
async fn create_in_each(sale: &Sale, name: &str, fields: Value) -> Vec<String> {
    for n in 1..=NUMBERS.len() {
        sale.create_with(&format!("{name}-{n}"), fields.clone()).await;
    }
    let rows =
        sale.psql(&format!("select partition, id from coupons where id ~ '^{name}-.$' order by partition"));
    let (partitions, coupons): (Vec<i16>, Vec<String>) = rows
        .lines()
        .map(|row| row.split_once('|').unwrap())
        .map(|(partition, id)| (partition.parse::<i16>().unwrap(), id.to_owned()))
        .unzip();
    assert_eq!(partitions, NUMBERS, "each partition gets one coupon");
    coupons
}

/// Claims, and waits until the order is recorded; returns its id.
async fn buy(sale: &Sale, coupon: &str, user: &str) -> String {
    let answer = sale.claim_with(coupon, user, &[("prefer", "wait=10")]).await;
    assert_eq!(answer.status, 201, "{coupon}: {}", answer.text);
    order_of(&answer)
}

fn order_of(answer: &Answer) -> String {
    answer.body["order"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
}

/// Sends `confirm` or `cancel` as the user.
async fn ask(sale: &Sale, user: &str, order: &str, transition: &str) -> Answer {
    let authorization = format!("Bearer {}", sale.token(user));
    let path = format!("/v1/orders/{order}/{transition}");
    sale.send(Method::POST, &path, &[("authorization", &authorization)], None).await
}

async fn revoke(sale: &Sale, order: &str, return_unit: bool) -> Answer {
    let body = json!({"reason": "test", "return_unit": return_unit});
    sale.admin(Method::POST, &format!("/v1/admin/orders/{order}/revoke"), Some(body)).await
}

async fn patch(sale: &Sale, coupon: &str, body: Value) -> Answer {
    sale.admin(Method::PATCH, &format!("/v1/admin/coupons/{coupon}"), Some(body)).await
}

async fn receipt(sale: &Sale, coupon: &str) -> Value {
    let answer = sale.admin(Method::GET, &format!("/v1/admin/coupons/{coupon}/receipt"), None).await;
    assert_eq!(answer.status, 200, "{coupon}: {}", answer.text);
    answer.body
}

/// Waits until the coupon's address shows this stock: what it shows may be a little older than the request.
async fn until_stock(sale: &Sale, coupon: &str, stock: i64) {
    until(&format!("{coupon} has {stock} units"), async || {
        let shown = sale.get(&format!("/v1/coupons/{coupon}")).await;
        assert_eq!(shown.status, 200, "{}", shown.text);
        (shown.body["stock"] == stock).then_some(())
    })
    .await;
}

/// Both stores agree on each coupon, each receipt adds up, and the comparison of all partitions finds `claims` claims and
/// no difference.
async fn assert_whole(sale: &Sale, coupons: &[String], claims: i64) {
    for coupon in coupons {
        sale.assert_in_agreement(coupon).await;
        let receipt = receipt(sale, coupon).await;
        assert_eq!(
            (&receipt["adds_up"], &receipt["exceptions_found"]),
            (&json!(true), &json!(0)),
            "{receipt}"
        );
    }
    let compared = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({}))).await;
    assert_eq!(compared.status, 200, "{}", compared.text);
    let seen = (&compared.body["coupons"], &compared.body["claims"]);
    assert_eq!(seen, (&json!(coupons.len()), &json!(claims)), "{}", compared.text);
    for count in COUNTED {
        assert_eq!(compared.body[count], 0, "{count}: {}", compared.text);
    }
}

/// Every order is in the partition of its coupon.
fn assert_orders_in_their_partitions(sale: &Sale) {
    let astray =
        "select count(*) from orders o join coupons c on c.id = o.coupon_id where o.partition <> c.partition";
    assert_eq!(sale.psql_number(astray), 0);
}
