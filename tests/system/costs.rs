//! The costs of many claims in round trips, scripts and transactions, which are counted instead of timed.

use std::collections::HashMap;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::deleted_entries::delete_unnoticed;
use crate::metrics::metric;
use crate::recording::consumers;
use support::{Sale, until};

const CONNECTIONS: usize = 100;
/// The most scripts for a thousand claims: each connection sends ten claims, so there are about ten batches and a few
/// more.
const SCRIPTS_MAX: u64 = 60;

/// Starts a server and waits until its comparison at the start has ended, which also sends commands.
async fn start(environment: &[(&str, &str)]) -> Sale {
    let sale = Sale::start_with(environment).await;
    let compared = async || {
        (metric(&sale, "seckill_reconcile_last_timestamp_seconds{partition=\"0\"}").await > 1.6e9)
            .then_some(())
    };
    until("the comparison at the start has ended", compared).await;
    sale
}

/// Calls of each command since Redis started, also those from scripts.
fn calls(sale: &Sale) -> HashMap<String, u64> {
    let stats = sale.redis_cli(&["INFO", "commandstats"]);
    let call = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split_once(',')?.0.parse().ok()?))
    };
    stats.lines().filter_map(call).collect()
}

/// Number of calls of one command between two readings.
fn growth(before: &HashMap<String, u64>, after: &HashMap<String, u64>, name: &str) -> u64 {
    let of = |calls: &HashMap<String, u64>| calls.get(name).copied().unwrap_or(0);
    of(after) - of(before)
}

/// Sends claims of `users` users, starting with number `first`. Sends all claims before it reads an answer; counts the
/// statuses.
async fn crowd(sale: &Sale, coupon: &str, first: usize, users: usize) -> HashMap<String, usize> {
    let mut clients = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let users: Vec<usize> = (first..first + users).skip(connection).step_by(CONNECTIONS).collect();
        let expected = users.len();
        let requests = users.iter().fold(String::new(), |requests, user| {
            let token = sale.token(&format!("user-{user}"));
            let path = format!("/v1/coupons/{coupon}/claims");
            requests
                + &format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n")
        });
        let mut stream = sale.connect().await;
        clients.spawn(async move {
            stream.write_all(requests.as_bytes()).await.unwrap();
            let mut text = String::new();
            let mut buffer = vec![0; 65_536];
            while text.matches("HTTP/1.1 ").count() < expected || !text.ends_with('}') {
                let length = stream.read(&mut buffer).await.unwrap();
                assert_ne!(length, 0, "the server closed the connection");
                text += std::str::from_utf8(&buffer[..length]).unwrap();
            }
            text.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned()).collect::<Vec<_>>()
        });
    }
    let mut statuses = HashMap::new();
    for status in clients.join_all().await.into_iter().flatten() {
        *statuses.entry(status).or_default() += 1;
    }
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_claims_at_once_cost_a_few_scripts() {
    let sale = start(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 1_000).await;
    let before = calls(&sale);
    // Claims that arrive while Redis is busy are sent as one batch.
    sale.redis_cli(&["CLIENT", "PAUSE", "500", "WRITE"]);
    assert_eq!(crowd(&sale, "coffee", 0, 1_000).await, HashMap::from([("202".to_owned(), 1_000)]));
    let after = calls(&sale);
    assert_eq!(growth(&before, &after, "xadd"), 1_000);
    let scripts = growth(&before, &after, "evalsha");
    assert!(scripts <= SCRIPTS_MAX, "{scripts} EVALSHAs for 1,000 claims at once");
    // A batch reads the coupon and its holders once, and writes the claims and the stock once.
    for (command, times) in [("hmget", 2), ("hlen", 1), ("hset", 1), ("hincrby", 1)] {
        let calls = growth(&before, &after, command);
        assert!(calls <= times * scripts, "{calls} calls of {command} in {scripts} batches");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_for_a_sold_out_coupon_costs_one_read_and_writes_nothing() {
    let sale = start(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 1).await;
    assert_eq!(sale.claim("coffee", "winner").await.status, 202);
    let before = calls(&sale);
    let aof_bytes = || {
        sale.redis_cli(&["INFO", "persistence"])
            .lines()
            .find(|l| l.starts_with("aof_current_size:"))
            .map(str::to_owned)
    };
    let aof_before = aof_bytes();
    sale.redis_cli(&["CLIENT", "PAUSE", "500", "WRITE"]);
    assert_eq!(crowd(&sale, "coffee", 0, 1_000).await, HashMap::from([("409".to_owned(), 1_000)]));
    let after = calls(&sale);
    assert_eq!(aof_bytes(), aof_before);
    let scripts = growth(&before, &after, "evalsha");
    assert!(scripts <= SCRIPTS_MAX, "{scripts} EVALSHAs for 1,000 refused claims");
    let reads = growth(&before, &after, "hmget");
    assert!(reads <= 2 * scripts, "{reads} reads of the coupon and its holders in {scripts} batches");
}

#[tokio::test]
async fn the_claims_of_a_hundred_holders_are_a_hash_table_and_not_a_list() {
    let sale = start(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 100).await;
    crowd(&sale, "coffee", 0, 100).await;
    let encoding = |key: &str| sale.redis_cli(&["OBJECT", "ENCODING", key]).trim().to_owned();
    assert_eq!(encoding("seckill:{0}:claims:coffee"), "hashtable");
    assert_eq!(encoding("seckill:{0}:coupon:coffee"), "listpack");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_events_cost_ten_transactions() {
    let sale = start(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 10_000).await;
    for round in 0..10 {
        let taken = crowd(&sale, "coffee", 1_000 * round, 1_000).await;
        assert_eq!(taken, HashMap::from([("202".to_owned(), 1_000)]));
    }
    let before = calls(&sale);
    let worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    sale.until_quiet().await;
    let after = calls(&sale);
    assert!(has_backlog_consumer(&sale), "the backlog consumer has read");
    drop(worker);
    assert_eq!(sale.psql_number("select count(*) from orders"), 10_000);
    assert_eq!(sale.psql_number("select count(distinct xmin::text) from orders"), 10, "transactions");
    assert_eq!(growth(&before, &after, "xack"), 10);
    // One read for each batch, one read of the consumer's own entries, and some empty reads before the worker ends.
    let reads = growth(&before, &after, "xreadgroup");
    assert!((11..100).contains(&reads), "{reads} reads of the stream");
}

/// Whether the backlog consumer has read the stream: only then it is in the group.
fn has_backlog_consumer(sale: &Sale) -> bool {
    consumers(sale).iter().any(|name| name.ends_with("-backlog"))
}

#[tokio::test]
async fn fewer_events_than_a_batch_have_one_consumer() {
    let sale = start(&[]).await;
    sale.create("coffee", 1_000).await;
    assert_eq!(crowd(&sale, "coffee", 0, 900).await, HashMap::from([("202".to_owned(), 900)]));
    sale.until_quiet().await;
    assert!(!has_backlog_consumer(&sale));
}

#[tokio::test]
async fn a_comparison_reads_the_stream_once_for_all_coupons() {
    let sale = start(&[("SECKILL_WORKERS", "0")]).await;
    for number in 0..20 {
        let coupon = format!("coupon-{number}");
        sale.create(&coupon, 1).await;
        assert_eq!(sale.claim(&coupon, "alice").await.status, 202);
    }
    // The events of two different coupons are lost.
    let stream = "seckill:{0}:orders";
    let newest = sale.redis_cli(&["XREVRANGE", stream, "+", "-", "COUNT", "2"]);
    let ids: Vec<&str> = newest.lines().filter(|line| line.starts_with('1') && line.len() < 25).collect();
    delete_unnoticed(&sale, &[ids[0], ids[1]]);
    let before = calls(&sale);
    let answer = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"fix": true}))).await;
    let pages = growth(&before, &calls(&sale), "xrange");
    let found = ["claims", "in_flight", "lost_events", "fixed"].map(|name| answer.body[name].as_u64());
    assert_eq!(found, [20, 18, 2, 2].map(Some), "{}", answer.text);
    assert_eq!(sale.redis_cli(&["XLEN", stream]).trim(), "20");
    assert!(pages < 10, "{pages} pages of the stream were read");
}
