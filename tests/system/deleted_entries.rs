//! Another program deletes or trims pending entries: the program finds them, counts them once and logs them, and their
//! orders are still recorded.

use reqwest::Method;
use serde_json::json;

use crate::metrics::{count, metric};
use support::{Sale, until};

const ORDERS: &str = "seckill:{0}:orders";
const DELETED: &str = "seckill_deleted_entries_total";

/// Six claims, whose entries are delivered to a consumer that is gone. Three of the entries are deleted.
async fn sale_with_deleted_entries() -> Sale {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0"), ("SECKILL_RECLAIM_AFTER", "200ms")]).await;
    // Waits for the comparison at the start: it could otherwise requeue the events of the entries that are deleted
    // below.
    let compared = async || {
        (metric(&sale, "seckill_reconcile_last_timestamp_seconds{partition=\"0\"}").await > 1.6e9)
            .then_some(())
    };
    until("the comparison at the start has ended", compared).await;
    sale.create("coffee", 100).await;
    for n in 0..6 {
        assert_eq!(sale.claim("coffee", &format!("user-{n}")).await.status, 202);
    }
    let entries = sale.redis_cli(&["XRANGE", ORDERS, "-", "+"]);
    let ids: Vec<&str> = entries.lines().filter(|line| line.starts_with('1') && line.len() < 25).collect();
    assert_eq!(ids.len(), 6);
    sale.redis_cli(&["XREADGROUP", "GROUP", "order-writers", "gone", "STREAMS", ORDERS, ">"]);
    delete_unnoticed(&sale, &[ids[0], ids[3], ids[5]]);
    sale
}

/// Deletes entries and settles the tally as a comparison would, so that no probe notices the deletion. The stream must
/// not have lost an entry before.
pub fn delete_unnoticed(sale: &Sale, ids: &[&str]) {
    let delete =
        "redis.call('XDEL', KEYS[1], unpack(ARGV, 2)) redis.call('HSET', KEYS[2], 'settled', ARGV[1])";
    let settled = format!("{} 0", ids.len());
    sale.redis_cli(&[&["EVAL", delete, "2", ORDERS, "seckill:{0}:tally", &settled], ids].concat());
}

fn pending(sale: &Sale) -> String {
    sale.redis_cli(&["XPENDING", ORDERS, "order-writers"]).lines().next().unwrap().to_owned()
}

async fn assert_all_are_recorded(sale: &Sale) {
    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    let recorded = async || (sale.psql_number("select count(*) from orders") == 6).then_some(());
    until("all six are recorded", recorded).await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn deleted_entries_are_reported_then_counted_and_requeued_while_claims_go_on() {
    let sale = sale_with_deleted_entries().await;
    let epoch = sale.epoch();
    let reconcile = async |fix: bool| {
        let answer = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({ "fix": fix }))).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        [&answer.body["deleted_entries"], &answer.body["lost_events"], &answer.body["fixed"]]
            .map(|number| number.as_i64().unwrap())
    };
    assert_eq!(reconcile(false).await, [3, 3, 0]);
    assert_eq!((pending(&sale).as_str(), count(&sale, DELETED).await), ("6", 0), "reported, not repaired");
    assert_eq!(count(&sale, "seckill_reconcile_drift{kind=\"lost_event\",partition=\"0\"}").await, 3);

    assert_eq!(reconcile(true).await, [3, 3, 3]);
    assert_eq!((pending(&sale).as_str(), count(&sale, DELETED).await), ("3", 3));
    assert!(sale.log().contains("3 pending entries were deleted or trimmed"), "{}", sale.log());
    assert_eq!(reconcile(true).await, [0, 0, 0]);
    assert_eq!(count(&sale, DELETED).await, 3, "counted once");
    assert_eq!(count(&sale, "seckill_reconcile_drift{kind=\"lost_event\",partition=\"0\"}").await, 0);
    assert_eq!(count(&sale, "seckill_reconcile_drift_total{kind=\"lost_event\"}").await, 6);
    assert_eq!(sale.epoch(), epoch, "repaired while claims go on");
    assert_all_are_recorded(&sale).await;
}

#[tokio::test]
async fn deleted_entries_are_found_at_the_next_start() {
    let mut sale = sale_with_deleted_entries().await;
    assert!(sale.stop().success());
    sale.start_server().await;
    sale.server().until_logged("3 pending entries were deleted or trimmed").await;
    let counted = async || (count(&sale, DELETED).await == 3).then_some(());
    until("they are counted", counted).await;
    assert_all_are_recorded(&sale).await;
    assert_eq!(count(&sale, DELETED).await, 3, "counted once");
}

#[tokio::test]
async fn deleted_entries_are_found_by_a_process_that_joins() {
    let sale = sale_with_deleted_entries().await;
    let epoch = sale.epoch();
    // The process has no workers: only its comparison can find the deleted entries.
    let joining = sale.spawn_by_address("serve", &[], &[("SECKILL_WORKERS", "0")]);
    joining.until_logged("3 pending entries were deleted or trimmed").await;
    until("three are requeued", async || (sale.redis_cli(&["XLEN", ORDERS]) == "6").then_some(())).await;
    assert_eq!(pending(&sale), "3", "entries that are only late stay pending");
    assert_eq!(sale.epoch(), epoch, "repaired while claims go on");
    assert_all_are_recorded(&sale).await;
}

#[tokio::test]
#[ignore = "long: waits for the check of each minute"]
async fn deleted_entries_are_found_within_a_minute_without_any_worker() {
    let sale = sale_with_deleted_entries().await;
    // Longer than `until` waits: the interval alone is a minute.
    for _ in 0..2 {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(50);
        while tokio::time::Instant::now() < deadline && count(&sale, DELETED).await != 3 {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }
    assert_eq!(count(&sale, DELETED).await, 3);
    assert!(sale.log().contains("3 pending entries were deleted or trimmed"), "{}", sale.log());
    assert_all_are_recorded(&sale).await;
}
