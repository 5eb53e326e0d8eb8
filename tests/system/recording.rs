//! Workers in separate processes: what they record, what they reject, and what stays in the stream.

use futures_util::StreamExt;
use nix::sys::signal::Signal;

use support::proxy::Proxy;
use support::{Sale, signal_all, until};

const CLAIMS: &str = "seckill:{0}:claims:coffee";
const ORDERS: &str = "seckill:{0}:orders";
const NO_WORKERS: (&str, &str) = ("SECKILL_WORKERS", "0");
const ONE_WORKER: (&str, &str) = ("SECKILL_WORKERS", "1");

pub fn consumers(sale: &Sale) -> Vec<String> {
    let info = sale.redis_cli(&["XINFO", "CONSUMERS", ORDERS, "order-writers"]);
    let lines: Vec<&str> = info.lines().collect();
    lines.windows(2).filter(|pair| pair[0] == "name").map(|pair| pair[1].to_owned()).collect()
}

/// Claims one unit for each of these users, many at a time; returns their orders.
async fn buy(sale: &Sale, users: std::ops::Range<usize>) -> Vec<String> {
    futures_util::stream::iter(users)
        .map(|n| async move {
            let answer = sale.claim("coffee", &format!("user-{n}")).await;
            assert_eq!(answer.status, 202, "{}", answer.text);
            answer.body["order"].as_str().unwrap().to_owned()
        })
        .buffer_unordered(64)
        .collect()
        .await
}

#[tokio::test]
async fn a_worker_process_records_and_removes_its_consumers_when_it_stops() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 1_000).await;
    let orders = buy(&sale, 0..100).await;
    assert_eq!(sale.psql_number("select count(*) from orders"), 0);
    // Delivers some entries to a consumer that is gone: a separate consumer reclaims them.
    let read = ["XREADGROUP", "GROUP", "order-writers", "gone", "COUNT", "10", "STREAMS", ORDERS, ">"];
    sale.redis_cli(&read);
    let worker = sale.spawn("worker", &[("SECKILL_WORKERS", "3"), ("SECKILL_RECLAIM_AFTER", "200ms")]);
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&orders);
    until("its consumers are in the group", async || (consumers(&sale).len() == 5).then_some(())).await;
    assert!(worker.stop().success());
    assert_eq!(consumers(&sale), ["gone"]);
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_finishes_its_batch_first() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    let worker = sale.spawn("worker", &[ONE_WORKER]);
    let lock = sale.lock_coupon("coffee").await;
    let orders = buy(&sale, 0..1).await;
    sale.until_a_worker_waits().await;
    worker.signal(Signal::SIGTERM);
    lock.release();
    assert!(worker.stop().success());
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&orders);
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_ends_even_while_postgres_hangs() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    let worker = sale.spawn("worker", &[ONE_WORKER]);
    // The worker connects to Postgres before Postgres hangs.
    let mut orders = buy(&sale, 0..1).await;
    sale.until_quiet().await;
    let postgres = sale.postgres_pids();
    signal_all(&postgres, Signal::SIGSTOP);
    orders.extend(buy(&sale, 1..2).await);
    let pending = [&b"XPENDING"[..], ORDERS.as_bytes(), b"order-writers"];
    until("the worker has the entry", async || {
        sale.redis_raw(&pending).starts_with("*4\r\n:1\r\n").then_some(())
    })
    .await;
    let (status, log) = worker.stop_and_read();
    assert!(status.success(), "{log}");
    assert!(log.contains("stopping workers before the end of their batches"), "{log}");
    signal_all(&postgres, Signal::SIGCONT);
    let _second_worker = sale.spawn("worker", &[ONE_WORKER, ("SECKILL_RECLAIM_AFTER", "200ms")]);
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&orders);
}

#[tokio::test]
async fn an_event_without_stock_in_postgres_is_rejected_and_its_unit_returned() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    sale.psql("update coupons set stock = 0");
    let refused = sale.claim_with("coffee", "alice", &[("prefer", "wait=10")]).await;
    assert_eq!((refused.status, refused.code()), (409, "rejected"), "{}", refused.text);
    let accepted = sale.claim("coffee", "bob").await;
    assert!([200, 202].contains(&accepted.status), "{}", accepted.text);
    until("both units are back", async || (sale.redis_stock("coffee") == 10).then_some(())).await;
    assert_eq!(sale.redis_cli(&["HLEN", CLAIMS]), "0");
    sale.until_quiet().await;
    assert_eq!(sale.psql("select count(*), count(distinct order_id) from dead_letters"), "2|2");
    let path = format!("/v1/coupons/coffee/claims/{}", accepted.body["order"].as_str().unwrap());
    let seen = sale.get_as(&sale.token("bob"), &path).await;
    assert_eq!((seen.status, &seen.body["status"]), (200, &"rejected".into()), "{}", seen.text);

    // Once there is stock again, both users can claim again.
    sale.psql("update coupons set stock = total");
    for user in ["alice", "bob"] {
        assert_eq!(sale.claim_with("coffee", user, &[("prefer", "wait=10")]).await.status, 201);
    }
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn the_rest_of_a_batch_is_recorded_when_postgres_has_stock_for_some_of_it() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 100).await;
    buy(&sale, 0..50).await;
    sale.psql("update coupons set stock = 20");
    let _worker = sale.spawn("worker", &[ONE_WORKER]);
    sale.until_quiet().await;
    let ended = "select status, count(*) from orders group by status order by status";
    assert_eq!(sale.psql(ended), "confirmed|20\nrejected|30");
    assert_eq!(sale.psql("select stock from coupons"), "0");
    assert_eq!((sale.redis_stock("coffee"), sale.redis_cli(&["HLEN", CLAIMS])), (80, "20".into()));
}

#[tokio::test]
async fn unreadable_entries_become_dead_letters_and_the_events_behind_them_orders() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 100).await;
    let mut orders = buy(&sale, 0..1).await;
    let megabyte = vec![b'x'; 1 << 20];
    let own = &orders[0].clone();
    let id = |n: u8| format!("01a20dfc-6229-756f-bc31-2593204e67{n:02x}");
    let (one, two, three, four, five) = (id(1), id(2), id(3), id(4), id(5));
    let entries: [&[&[u8]]; 12] = [
        &[b"foo", b"bar"],
        &[b"", b""],
        &[b"order", b"\xff\xfe", b"coupon", b"coffee", b"user", b"bob"],
        &[b"order", one.as_bytes(), b"coupon", b"coffee", b"user", b"bo\0b"],
        &[b"order", two.as_bytes(), b"coupon", b"coffee", b"user", b"\xc3\x28"],
        &[b"order", three.as_bytes(), b"coupon", b"cof\0fee", b"user", b"bob"],
        &[b"order", four.as_bytes(), b"coupon", b"coffee", b"user", &megabyte],
        &[b"order", five.as_bytes(), &megabyte, b"coffee", b"user", b"bob"],
        // The nil UUID and a UUID of version 4 contain no time.
        &[b"order", b"00000000-0000-0000-0000-000000000000", b"coupon", b"coffee", b"user", b"bob"],
        &[b"order", b"6f1c1a52-9b0e-4c53-8a3a-0d7e0b1a2c3d", b"coupon", b"coffee", b"user", b"bob"],
        // An order that is already recorded, with another user: it counts as recorded.
        &[b"order", own.as_bytes(), b"coupon", b"coffee", b"user", b"mallory"],
        &[b"user", b"bob", b"order", own.as_bytes(), b"coupon", b"coffee", b"user", b"mallory"],
    ];
    for entry in entries {
        let command: [&[u8]; 3] = [b"XADD", ORDERS.as_bytes(), b"*"];
        let reply = sale.redis_raw(&[&command[..], entry].concat());
        assert!(reply.starts_with('$'), "{reply}");
        orders.extend(buy(&sale, orders.len()..orders.len() + 1).await);
    }
    let _worker = sale.spawn("worker", &[ONE_WORKER]);
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&orders);
    assert_eq!(sale.psql_number("select count(*) from dead_letters"), 10);
    assert_eq!(sale.psql_number("select count(*) from orders where status = 'rejected'"), 0);
    assert_eq!(
        sale.psql_number("select max(length(fields)) from dead_letters") >> 20,
        1,
        "the entry is kept as a whole"
    );
    let listed = sale.admin(reqwest::Method::GET, "/v1/admin/dead?limit=200", None).await;
    assert_eq!((listed.status, listed.body["items"].as_array().unwrap().len()), (200, 10), "{}", listed.text);
}

#[tokio::test]
async fn no_order_waits_until_the_unreadable_entries_of_its_batch_are_dead_letters() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    sale.redis_cli(&["XADD", "seckill:{0}:orders", "*", "hello", "world"]);
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    let proxy = Proxy::before(&sale.postgres_socket());
    let trap = proxy.hold(&["insert into dead_letters"]);
    let _worker = sale.spawn_by_address("worker", &[&proxy], &[("SECKILL_WORKERS", "1")]);
    trap.until_taken().await;
    assert_eq!(sale.psql("select user_id from orders"), "alice");
    trap.release();
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.psql_number("select count(*) from dead_letters"), 1);
}

#[tokio::test]
async fn recorded_entries_are_trimmed_but_not_those_that_another_group_has_not_read() {
    let sale = Sale::start().await;
    sale.create("coffee", 10_000).await;
    let length = || sale.redis_cli(&["XLEN", ORDERS]).parse::<usize>().unwrap();
    buy(&sale, 0..3_000).await;
    sale.until_quiet().await;
    until("the tail is trimmed", async || (length() <= 1_100).then_some(())).await;
    assert!(length() >= 1_000, "the last thousand entries stay for inspection");

    sale.redis_cli(&["XGROUP", "CREATE", ORDERS, "audit", "0"]);
    let kept = length();
    let first = sale.redis_cli(&["XRANGE", ORDERS, "-", "+", "COUNT", "1"]);
    buy(&sale, 3_000..4_500).await;
    sale.until_quiet().await;
    // Waits until housekeeping has run several times.
    let rounds = sale.redis_cli(&["INFO", "commandstats"]);
    let trims = |stats: &str| {
        let line = stats.lines().find(|line| line.starts_with("cmdstat_xinfo|groups:")).unwrap();
        line.split("calls=").nth(1).unwrap().split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let before = trims(&rounds);
    until("housekeeping has run several times", async || {
        (trims(&sale.redis_cli(&["INFO", "commandstats"])) >= before + 6).then_some(())
    })
    .await;
    assert_eq!(length(), kept + 1_500);
    assert_eq!(sale.redis_cli(&["XRANGE", ORDERS, "-", "+", "COUNT", "1"]), first);

    // The other group reads more entries, which may then be trimmed.
    let read = ["XREADGROUP", "GROUP", "audit", "me", "COUNT", "2000", "NOACK", "STREAMS", ORDERS, ">"];
    sale.redis_cli(&read);
    until("what both have read is trimmed", async || (length() <= 1_100).then_some(())).await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_comparison_during_claims_finds_no_difference_and_changes_nothing() {
    let sale = Sale::start().await;
    sale.create("coffee", 4_000).await;
    let epoch = sale.epoch();
    let compare = async {
        let mut found = Vec::new();
        for _ in 0..8 {
            let body = serde_json::json!({"fix": true});
            let answer = sale.admin(reqwest::Method::POST, "/v1/admin/reconcile", Some(body)).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            found.push(answer.body);
        }
        found
    };
    let (found, orders) = tokio::join!(compare, buy(&sale, 0..4_000));
    for found in found {
        for kind in ["lost_events", "missed_releases", "missing_claims", "stock_drift", "fixed"] {
            assert_eq!(found[kind], 0, "{kind}: {found}");
        }
    }
    sale.assert_in_agreement("coffee").await;
    sale.assert_recorded(&orders);
    assert_eq!(sale.epoch(), epoch);
}

async fn reconcile(sale: &Sale, fix: bool) -> support::Answer {
    let body = serde_json::json!({"fix": fix});
    sale.admin(reqwest::Method::POST, "/v1/admin/reconcile", Some(body)).await
}

#[tokio::test]
async fn reconcile_fix_recounts_a_stock_edited_in_postgres_while_claims_go_on() {
    let sale = Sale::start().await;
    sale.create("coffee", 1_000).await;
    let mut orders = buy(&sale, 0..100).await;
    sale.until_quiet().await;
    for (round, edit) in ["stock - 300", "stock + 90", "0 + 750"].iter().enumerate() {
        sale.psql(&format!("update coupons set stock = {edit}"));
        let report = reconcile(&sale, false).await;
        assert_eq!(
            (&report.body["stock_drift"], &report.body["fixed"]),
            (&1.into(), &0.into()),
            "{}",
            report.text
        );
        let users = 100 * (round + 1)..100 * (round + 2);
        let (fixed, more) = tokio::join!(reconcile(&sale, true), buy(&sale, users));
        assert_eq!(
            (&fixed.body["stock_drift"], &fixed.body["fixed"]),
            (&1.into(), &1.into()),
            "{}",
            fixed.text
        );
        orders.extend(more);
        sale.assert_in_agreement("coffee").await;
        sale.assert_recorded(&orders);
    }
    // There are more orders than units: a recount cannot repair this.
    sale.psql("update coupons set total = 300, stock = 0");
    let report = reconcile(&sale, true).await;
    assert_eq!((report.status, &report.body["stock_drift"]), (200, &1.into()), "{}", report.text);
    assert_eq!(sale.psql("select total, stock from coupons"), "300|0");
    sale.claim("coffee", "late").await.assert_problem(409, "sold-out");
}
