//! Another program removes entries from the order stream or from the group: the counts of the stream and the group show
//! this within two seconds, and the program requeues the events.

use std::time::Duration;

use seckill::redis::keys::GROUP;

use crate::metrics::count;
use support::{Process, Sale, until};

const ORDERS: &str = "seckill:{0}:orders";
const TALLY: &str = "seckill:{0}:tally";
const LOST: &str = "seckill_reconcile_drift_total{kind=\"lost_event\"}";
const MISSED: &str = "acknowledged by another program";
/// The promise is two seconds. The tests allow more, for a loaded machine.
const IN_TIME: Duration = Duration::from_secs(10);

/// What another program does. Gets the ids of the ten unread events; returns how many events are lost.
type Removal = fn(&Sale, &[String]) -> u64;

const REMOVALS: &[(&str, Removal)] = &[
    ("XTRIM to nothing", |sale, _| {
        sale.redis_cli(&["XTRIM", ORDERS, "MAXLEN", "0"]);
        10
    }),
    ("XTRIM of some", |sale, _| {
        sale.redis_cli(&["XTRIM", ORDERS, "MAXLEN", "4"]);
        6
    }),
    ("XADD that trims", |sale, _| {
        sale.redis_cli(&["XADD", ORDERS, "MAXLEN", "4", "*", "hand", "made"]);
        7
    }),
    ("XDEL from the middle", |sale, ids| {
        sale.redis_cli(&["XDEL", ORDERS, &ids[8], &ids[5]]);
        sale.redis_cli(&["XDEL", ORDERS, &ids[2]]);
        3
    }),
    ("XGROUP SETID to the end", |sale, _| {
        sale.redis_cli(&["XGROUP", "SETID", ORDERS, GROUP, "$"]);
        10
    }),
    ("XGROUP SETID to the middle", |sale, ids| {
        sale.redis_cli(&["XGROUP", "SETID", ORDERS, GROUP, &ids[3]]);
        4
    }),
    ("a reader without acknowledgements", |sale, _| {
        let read = ["XREADGROUP", "GROUP", GROUP, "gone", "COUNT", "6", "NOACK", "STREAMS", ORDERS, ">"];
        sale.redis_cli(&read);
        6
    }),
    ("a consumer removed with its pending entries", |sale, _| {
        deliver(sale, "7");
        sale.redis_cli(&["XGROUP", "DELCONSUMER", ORDERS, GROUP, "gone"]);
        7
    }),
    ("XACK of unrecorded entries", |sale, ids| {
        deliver(sale, "10");
        let acknowledge = ["XACK", ORDERS, GROUP, &ids[0], &ids[4], &ids[9]];
        sale.redis_cli(&acknowledge);
        3
    }),
    ("XTRIM of pending and of unread entries", |sale, _| {
        deliver(sale, "5");
        sale.redis_cli(&["XTRIM", ORDERS, "MAXLEN", "3"]);
        7
    }),
];

fn deliver(sale: &Sale, entries: &str) {
    sale.redis_cli(&["XREADGROUP", "GROUP", GROUP, "gone", "COUNT", entries, "STREAMS", ORDERS, ">"]);
}

/// Ids of the last ten entries, oldest first.
fn last_ids(sale: &Sale) -> Vec<String> {
    let entries = sale.redis_cli(&["XREVRANGE", ORDERS, "+", "-", "COUNT", "10"]);
    let is_id = |line: &&str| line.starts_with('1') && line.len() < 25 && line.contains('-');
    let mut ids: Vec<String> = entries.lines().filter(is_id).map(str::to_owned).collect();
    ids.reverse();
    ids
}

async fn until_tally_is_settled(sale: &Sale) {
    let times = || sale.log().matches(MISSED).count();
    let quiet = async || {
        let before = times();
        tokio::time::sleep(Duration::from_secs(2)).await;
        (times() == before).then_some(())
    };
    until("nothing more is reported missing", quiet).await;
}

fn start_worker(sale: &Sale) -> Process {
    sale.spawn("worker", &[("SECKILL_WORKERS", "1"), ("SECKILL_RECLAIM_AFTER", "200ms")])
}

#[tokio::test]
async fn entries_that_another_program_removes_are_noticed_at_once_and_requeued() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 1_000).await;
    let epoch = sale.epoch();
    let (mut users, mut orders) = (0, Vec::new());
    for (name, remove) in REMOVALS {
        for _ in 0..10 {
            users += 1;
            let answer = sale.claim("coffee", &format!("user-{users}")).await;
            assert_eq!(answer.status, 202, "{name}: {}", answer.text);
            orders.push(answer.body["order"].as_str().unwrap().to_owned());
        }
        let before = count(&sale, LOST).await;
        let lost = remove(&sale, &last_ids(&sale));
        let began = std::time::Instant::now();
        until(&format!("{name}: {lost} events are found lost"), async || {
            (count(&sale, LOST).await >= before + lost).then_some(())
        })
        .await;
        assert!(began.elapsed() < IN_TIME, "{name}: {:?}", began.elapsed());
        // No worker has run yet: so only the tally can have shown the loss.
        let worker = start_worker(&sale);
        sale.until_quiet().await;
        sale.assert_recorded(&orders);
        assert_eq!(count(&sale, LOST).await, before + lost, "{name}: each is found once");
        assert!(worker.stop().success());
    }
    assert_eq!(sale.psql_number("select count(*) from orders where status = 'rejected'"), 0);
    assert_eq!(sale.epoch(), epoch, "repaired while claims continue");
    sale.assert_in_agreement("coffee").await;
    // The program does not report settled losses again.
    until_tally_is_settled(&sale).await;
}

#[tokio::test]
async fn a_group_set_beyond_the_last_event_reads_all_events_again() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 100).await;
    let mut orders = Vec::new();
    for n in 0..3 {
        orders.push(
            sale.claim("coffee", &format!("user-{n}")).await.body["order"].as_str().unwrap().to_owned(),
        );
    }
    let epoch = sale.epoch();
    sale.redis_cli(&["XGROUP", "SETID", ORDERS, GROUP, "18446744073709551615-0"]);
    until("a rebuild puts the group back", async || (sale.epoch() != epoch).then_some(())).await;
    sale.until_ready().await;
    let _worker = start_worker(&sale);
    orders.push(sale.claim("coffee", "user-3").await.body["order"].as_str().unwrap().to_owned());
    sale.until_quiet().await;
    sale.assert_recorded(&orders);
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn no_entry_is_reported_missing_while_the_program_trims_reclaims_restarts_and_rebuilds() {
    let mut sale = Sale::start_with(&[("SECKILL_RECLAIM_AFTER", "200ms")]).await;
    sale.create("coffee", 10_000).await;
    sale.redis_cli(&["CONFIG", "SET", "stream-node-max-entries", "10"]);
    // A group of another program, which reads and acknowledges independently.
    sale.redis_cli(&["XGROUP", "CREATE", ORDERS, "analytics", "0"]);
    let mut users = 0;
    let mut sell = async |sale: &Sale, claims: usize| {
        for _ in 0..claims {
            users += 1;
            assert_eq!(sale.claim("coffee", &format!("user-{users}")).await.status, 202);
        }
    };
    sell(&sale, 1_100).await;
    let read = ["XREADGROUP", "GROUP", "analytics", "reader", "STREAMS", ORDERS, ">"];
    sale.redis_cli(&read);
    sale.redis_cli(&["EVAL", "for _, e in ipairs(redis.call('XPENDING', KEYS[1], 'analytics', '-', '+', 9999)) do redis.call('XACK', KEYS[1], 'analytics', e[1]) end", "1", ORDERS]);
    until("acknowledged entries are trimmed", async || {
        sale.redis_cli(&["HGET", TALLY, "trimmed"]).parse::<u64>().is_ok_and(|n| n > 0).then_some(())
    })
    .await;
    // A worker dies with pending entries.
    let lock = sale.lock_coupon("coffee").await;
    let worker = start_worker(&sale);
    sell(&sale, 5).await;
    sale.until_a_worker_waits().await;
    worker.kill_9();
    lock.release();
    sale.until_quiet().await;
    // A rebuild, a restart of the program, and a restart of Redis.
    let epoch = sale.epoch();
    sale.redis_cli(&["SCRIPT", "FLUSH"]);
    until("a rebuild begins", async || (sale.epoch() != epoch).then_some(())).await;
    sale.until_ready().await;
    sell(&sale, 5).await;
    let missed = sale.log().contains(MISSED);
    sale.kill_9();
    sale.start_server().await;
    sell(&sale, 5).await;
    sale.assert_in_agreement("coffee").await;
    until_tally_is_settled(&sale).await;
    assert!(!missed && !sale.log().contains(MISSED), "{}", sale.log());
}
