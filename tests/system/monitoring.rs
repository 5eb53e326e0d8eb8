//! What Prometheus reads: promtool's judgement, the histograms, the numbers of the stream, and that the alerts, the
//! dashboard and the operator's page name metrics that exist.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use support::{Sale, signal, until};

use crate::metrics::{count, metric};

const STREAM: &str = "stream=\"seckill:{0}:orders\"";
const GROUP: &str = "group=\"order-writers\",stream=\"seckill:{0}:orders\"";

/// A server that has accepted, refused, confirmed, cancelled and expired.
async fn used_sale() -> Sale {
    let sale = Sale::start().await;
    sale.create_with("coffee", json!({"total": 3, "reserve_seconds": 900, "waitlist": true})).await;
    let mut orders = Vec::new();
    for user in ["alice", "bob", "carol"] {
        let answer = sale.claim_with("coffee", user, &[("prefer", "wait=10")]).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        orders.push(answer.body["order"].as_str().unwrap().to_owned());
    }
    assert_eq!(sale.claim("coffee", "alice").await.status, 200);
    assert_eq!(sale.claim("coffee", "dave").await.status, 409);
    let authorization = format!("Bearer {}", sale.token("erin"));
    let headers = [("authorization", authorization.as_str())];
    let joined = sale.send(Method::POST, "/v1/coupons/coffee/waitlist", &headers, None).await;
    assert_eq!(joined.status, 201, "{}", joined.text);
    for (order, transition) in [(&orders[0], "confirm"), (&orders[1], "cancel")] {
        let answer = sale.admin(Method::POST, &format!("/v1/orders/{order}/{transition}"), None).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    sale.psql(&format!("update orders set reserved_until = now() where id = '{}'", orders[2]));
    until("carol's order has expired", async || {
        (count(&sale, "seckill_orders_expired_total").await == 1).then_some(())
    })
    .await;
    sale.until_quiet().await;
    sale
}

/// The names of the metrics in the text, each without the suffixes of a histogram.
fn names(metrics: &str) -> BTreeSet<String> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    types.map(str::to_owned).collect()
}

/// Every word of the text that begins like one of our metrics.
fn named_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("seckill_") || word.starts_with("process_")).collect()
}

#[tokio::test]
async fn promtool_has_nothing_to_say_about_the_metrics_of_a_used_server() {
    let sale = used_sale().await;
    let metrics = sale.get("/metrics").await.text;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool of Debian's package prometheus");
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let judged = promtool.wait_with_output().unwrap();
    let said = [judged.stdout, judged.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!((judged.status.code(), said), (Some(0), [String::new(), String::new()]), "{metrics}");
}

#[tokio::test]
async fn alerts_dashboard_and_the_operators_page_name_the_metrics_that_exist() {
    let sale = used_sale().await;
    let existing = names(&sale.get("/metrics").await.text);
    for file in ["deploy/alerts.yml", "deploy/alerts_test.yml", "deploy/grafana.json", "docs/OPERATING.md"] {
        let text = fs::read_to_string(file).unwrap();
        let named = named_in(&text);
        assert!(named.len() > 20, "{file} names only {named:?}");
        let exists = |name: &&str| {
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
            existing.contains(*name) || base.is_some_and(|base| existing.contains(base))
        };
        let unknown: Vec<&str> = named.into_iter().filter(|name| !exists(name)).collect();
        assert!(unknown.is_empty(), "{file} names metrics that do not exist: {unknown:?}");
    }
    let page = fs::read_to_string("docs/OPERATING.md").unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let listed: BTreeSet<String> = rows.map(str::to_owned).filter(|name| existing.contains(name)).collect();
    assert_eq!(existing, listed, "docs/OPERATING.md lists every metric");
}

#[tokio::test]
async fn the_times_of_claims_scripts_transactions_and_rows_are_measured() {
    let sale = used_sale().await;
    let counts = [
        ("seckill_claim_duration_seconds_count{answer=\"recorded\"}", 3),
        ("seckill_claim_duration_seconds_count{answer=\"held\"}", 1),
        ("seckill_claim_duration_seconds_count{answer=\"refused\"}", 1),
        ("seckill_claim_duration_seconds_count{answer=\"unavailable\"}", 0),
        ("seckill_transaction_duration_seconds_count{kind=\"confirm\"}", 1),
        ("seckill_transaction_duration_seconds_count{kind=\"cancel\"}", 1),
        ("seckill_transaction_duration_seconds_count{kind=\"join\"}", 1),
        ("seckill_transaction_duration_seconds_count{kind=\"reject\"}", 0),
        ("seckill_http_requests_total{code=\"201\"}", 5),
        ("seckill_http_requests_total{code=\"409\"}", 1),
        ("seckill_http_requests_total{code=\"other\"}", 0),
    ];
    for (name, expected) in counts {
        assert_eq!(count(&sale, name).await, expected, "{name}");
    }
    for name in [
        "seckill_evalsha_duration_seconds_count{script=\"waitlist_join\"}",
        "seckill_evalsha_duration_seconds_count{script=\"claim\"}",
        "seckill_evalsha_duration_seconds_count{script=\"acknowledge\"}",
        "seckill_transaction_duration_seconds_count{kind=\"record\"}",
        "seckill_transaction_duration_seconds_count{kind=\"expire\"}",
    ] {
        assert!(count(&sale, name).await > 0, "{name}");
    }
    // Those of alice, bob and carol, and erin's, who got bob's unit.
    assert_eq!(count(&sale, "seckill_orders_recorded_total").await, 4);
    assert_eq!(count(&sale, "seckill_window_seconds_count").await, 4);
    let slowest = metric(&sale, "seckill_window_seconds_sum").await;
    assert!(slowest > 0.0 && slowest < 600.0, "{slowest}");
    assert_eq!(count(&sale, "seckill_window_seconds_bucket{le=\"+Inf\"}").await, 4);
}

#[tokio::test]
async fn the_streams_numbers_are_shown_with_the_age_of_what_waits_and_are_unknown_without_redis() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 5).await;
    for user in ["alice", "bob", "carol"] {
        assert_eq!(sale.claim("coffee", user).await.status, 202);
    }
    let length = format!("seckill_stream_length{{{STREAM}}}");
    let lag = format!("seckill_stream_group_lag{{{GROUP}}}");
    let pending = format!("seckill_stream_group_messages_pending{{{GROUP}}}");
    assert_eq!(count(&sale, &length).await, 3);
    assert_eq!((count(&sale, &lag).await, count(&sale, &pending).await), (3, 0));
    assert_eq!(count(&sale, "seckill_worker_connections").await, 0);
    assert_eq!(count(&sale, &format!("seckill_stream_group_consumers{{{GROUP}}}")).await, 0);
    let age = metric(&sale, "seckill_backlog_oldest_seconds").await;
    until("the oldest event gets older", async || {
        (metric(&sale, "seckill_backlog_oldest_seconds").await > age).then_some(())
    })
    .await;
    // Another program takes an entry: it is pending, and the oldest one.
    let orders = "seckill:{0}:orders";
    sale.redis_cli(&["XREADGROUP", "GROUP", "order-writers", "x", "COUNT", "1", "STREAMS", orders, ">"]);
    assert_eq!((count(&sale, &lag).await, count(&sale, &pending).await), (2, 1));
    assert!(metric(&sale, "seckill_backlog_oldest_seconds").await > age);

    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    until("a worker has recorded what waited", async || {
        let recorded = sale.psql_number("select count(*) from orders") == 3;
        let is_read = count(&sale, &lag).await == 0 && count(&sale, &pending).await == 0;
        (recorded && is_read && count(&sale, "seckill_worker_connections").await > 0).then_some(())
    })
    .await;
    assert!(metric(&sale, "seckill_backlog_oldest_seconds").await.abs() < f64::EPSILON);
    assert_eq!(count(&sale, "seckill_ready").await, 1);

    let redis = sale.redis_pid();
    signal(redis, Signal::SIGSTOP);
    until("the stream is not known", async || metric(&sale, &length).await.is_nan().then_some(())).await;
    for name in [&lag, &pending, "seckill_backlog_oldest_seconds", "seckill_worker_connections"] {
        assert!(metric(&sale, name).await.is_nan(), "{name}");
    }
    signal(redis, Signal::SIGCONT);
    sale.until_ready().await;
    until("the stream is known again", async || {
        (metric(&sale, &length).await.total_cmp(&3.0).is_eq()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn dead_letters_stay_open_until_they_are_replayed_or_discarded() {
    let sale = Sale::start().await;
    sale.redis_cli(&["XADD", "seckill:{0}:orders", "*", "no", "order"]);
    let open = "seckill_dead_letters_open";
    until("the letter is open", async || (count(&sale, open).await == 1).then_some(())).await;
    let letter = sale.psql("select id from dead_letters");
    let discarded = sale.admin(Method::POST, &format!("/v1/admin/dead/{letter}/discard"), None).await;
    assert_eq!(discarded.status, 200, "{}", discarded.text);
    assert_eq!(count(&sale, open).await, 0);
}

#[tokio::test]
async fn embedded_stores_show_the_free_space_of_their_disks() {
    let sale = Sale::start().await;
    for store in ["redis", "postgres"] {
        assert!(metric(&sale, &format!("seckill_disk_free_bytes{{store=\"{store}\"}}")).await > 0.0);
    }
    let busy = metric(&sale, "seckill_postgres_pool_connections{state=\"busy\"}").await;
    assert!(busy <= metric(&sale, "seckill_postgres_pool_max_connections").await, "{busy}");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(count(&sale, &format!("seckill_build_info{{version=\"{version}\"}}")).await, 1);
    assert!(metric(&sale, "process_resident_memory_bytes").await > 1e6);
}
