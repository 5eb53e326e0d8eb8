//! One partition is down: its coupons are refused, the others sell, and an operator or the end of the fault brings it back
//! with every order that was told.

use reqwest::Method;
use serde_json::json;

use super::{
    NUMBERS, ask, assert_orders_in_their_partitions, assert_whole, buy, create_in_each, order_of, orders_key,
    start_with, until_all_up, until_stock, up_line,
};
use crate::metrics::metric;
use support::events::EventReader;
use support::{Process, Sale, until};

/// The partition that is down in these tests; not the first one, which answers for everything unknown.
const DOWN: i16 = 2;
/// An order id of 2026 that no order has.
const UNKNOWN_ORDER: &str = "01a20ddb-383c-73ca-9e44-c5cfc51aaa8d";

/// A sale of one coupon in each partition, with two recorded orders and one that is only in the stream.
struct Outage {
    sale: Sale,
    /// Of each coupon, in the order of `NUMBERS`.
    coupons: Vec<String>,
    /// The orders of all accepted claims, in any partition.
    told: Vec<String>,
    /// Of the coupon that is down: a reserved order that is recorded, and one that is not.
    reserved: String,
    unrecorded: String,
    worker: Option<Process>,
}

impl Outage {
    async fn start() -> Self {
        let sale = start_with(&[("SECKILL_WORKERS", "0")]).await;
        let coupons = create_in_each(&sale, "seat", json!({"total": 100, "reserve_seconds": 900})).await;
        let worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
        let mut told = Vec::new();
        for coupon in &coupons {
            told.push(buy(&sale, coupon, "alice").await);
            told.push(buy(&sale, coupon, "bob").await);
        }
        sale.until_quiet().await;
        assert!(worker.stop().success());
        for coupon in &coupons {
            told.push(order_of(&sale.claim(coupon, "carol").await));
        }
        let [reserved, unrecorded] = [told[2].clone(), told[7].clone()];
        Self { sale, coupons, told, reserved, unrecorded, worker: None }
    }

    fn is_down(&self, coupon: &str) -> bool {
        coupon == self.coupons[1]
    }

    async fn until_down(&self) {
        until("the partition is down", async || {
            let metrics = self.sale.get("/metrics").await.text;
            metrics.contains(&up_line(DOWN, 0)).then_some(())
        })
        .await;
    }

    /// The coupon of the partition that is down is refused, and nothing of the other ones.
    async fn assert_only_one_is_refused(&mut self) {
        self.worker = Some(self.sale.spawn("worker", &[("SECKILL_WORKERS", "1")]));
        let sale = &self.sale;
        let metrics = sale.get("/metrics").await.text;
        for number in NUMBERS {
            assert!(metrics.contains(&up_line(number, u8::from(number != DOWN))), "{number}: {metrics}");
        }
        assert_eq!(sale.get("/readyz").await.status, 200);
        assert_the_others_are_shown(sale).await;
        for coupon in &self.coupons {
            if self.is_down(coupon) {
                sale.claim(coupon, "dave").await.assert_problem(503, "unavailable");
                sale.get(&format!("/v1/coupons/{coupon}")).await.assert_problem(503, "unavailable");
                continue;
            }
            let order = buy(sale, coupon, "dave").await;
            assert_eq!(ask(sale, "dave", &order, "confirm").await.body["status"], "confirmed");
            self.told.push(order);
            until_stock(sale, coupon, 96).await;
        }
        ask(sale, "alice", &self.reserved, "confirm").await.assert_problem(503, "unavailable");
        ask(sale, "alice", &self.reserved, "cancel").await.assert_problem(503, "unavailable");
        for path in ["/v1/coupons", "/v1/admin/coupons"] {
            let listed = sale.admin(Method::GET, path, None).await;
            let items = listed.body["items"].as_array().unwrap_or_else(|| panic!("{}", listed.text));
            let ids: Vec<&str> = items.iter().map(|item| item["id"].as_str().unwrap()).collect();
            assert!(!ids.contains(&self.coupons[1].as_str()) && ids.len() == 2, "{path}: {ids:?}");
        }
        // The stream that cannot be read may have these orders.
        for order in [UNKNOWN_ORDER, &self.unrecorded] {
            let shown = sale.get_as(&sale.token("carol"), &format!("/v1/orders/{order}")).await;
            shown.assert_problem(503, "unavailable");
            ask(sale, "carol", order, "cancel").await.assert_problem(503, "unavailable");
        }
        // An order that Postgres has is shown.
        let shown = sale.get_as(&sale.token("alice"), &format!("/v1/orders/{}", self.reserved)).await;
        assert_eq!((shown.status, &shown.body["status"]), (200, &json!("reserved")), "{}", shown.text);
        // A new coupon goes to a partition that is up.
        sale.create("late", 1).await;
        assert_ne!(sale.psql_number("select partition from coupons where id = 'late'"), i64::from(DOWN));
        self.told.push(buy(sale, "late", "alice").await);
        self.coupons.push("late".into());
    }

    /// Every order that was told is there, and the coupons of every partition sell.
    async fn assert_nothing_is_lost(&mut self) {
        until_all_up(&self.sale).await;
        let coupon = self.coupons[1].clone();
        self.told.push(buy(&self.sale, &coupon, "dave").await);
        let confirmed = ask(&self.sale, "alice", &self.reserved, "confirm").await;
        assert_eq!(confirmed.body["status"], "confirmed", "{}", confirmed.text);
        let shown = self.sale.get_as(&self.sale.token("carol"), &format!("/v1/orders/{UNKNOWN_ORDER}")).await;
        // Its id is older than the epoch.
        shown.assert_problem(404, "order-lost");
        assert_whole(&self.sale, &self.coupons, 13).await;
        self.sale.assert_recorded(&self.told);
        assert_orders_in_their_partitions(&self.sale);
        assert_eq!(self.sale.psql_number("select count(*) from dead_letters"), 0);
    }
}

/// The backlog and the workers of the partitions that are up.
async fn assert_the_others_are_shown(sale: &Sale) {
    until("the workers of the other partitions are counted", async || {
        let workers = metric(sale, "seckill_worker_connections").await;
        (workers >= 2.0).then_some(())
    })
    .await;
    assert!(metric(sale, "seckill_backlog_oldest_seconds").await >= 0.0, "not NaN");
    let token = format!("Bearer {}", sale.admin_token());
    let mut events = EventReader::open(sale, "/v1/admin/events", &[("authorization", &token)]).await;
    let shown = events.until_named("status").await.pop().unwrap().data;
    assert!(shown["workers"].as_u64() >= Some(2), "{shown}");
    assert!(shown["backlog"]["pending"].is_u64() && shown["backlog"]["oldest_ms"].is_u64(), "{shown}");
    assert!(shown["consumers"].is_array(), "{shown}");
}

#[tokio::test]
async fn a_partition_that_waits_for_an_operator_refuses_its_own_coupons_only_and_comes_back_whole() {
    let mut outage = Outage::start().await;
    let epochs = "select epoch from fence where partition <> 2 order by partition";
    let before = outage.sale.psql(epochs);
    outage.sale.psql("update fence set postgres_lost = true where partition = 2");
    outage.sale.redis_cli(&["DEL", "seckill:{2}:epoch"]);
    outage.until_down().await;
    outage.assert_only_one_is_refused().await;
    assert_eq!(outage.sale.psql(epochs), before, "the other partitions are not rebuilt");
    let rebuilt = outage.sale.command().args(["reconcile", "--rebuild"]).output().unwrap();
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    outage.assert_nothing_is_lost().await;
}

#[tokio::test]
async fn a_partition_whose_rebuild_is_held_up_refuses_its_own_coupons_only_and_comes_back_whole() {
    let mut outage = Outage::start().await;
    let lock = outage.sale.lock_rebuild(DOWN).await;
    outage.sale.redis_cli(&["DEL", &orders_key(DOWN)]);
    outage.until_down().await;
    outage.assert_only_one_is_refused().await;
    lock.release();
    outage.assert_nothing_is_lost().await;
}
