//! The metrics, and the program's reports about its stores.

use std::net::{IpAddr, UdpSocket};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use support::{Sale, signal, until};

const ORDERS: &str = "seckill:{0}:orders";

/// The value of a counter.
pub async fn count(sale: &Sale, name: &str) -> u64 {
    text_of(sale, name).await.parse().unwrap()
}

pub async fn metric(sale: &Sale, name: &str) -> f64 {
    text_of(sale, name).await.parse().unwrap()
}

/// The value of `name` or `name{label="value"}`.
async fn text_of(sale: &Sale, name: &str) -> String {
    let answer = sale.get("/metrics").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let value = answer.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in:\n{}", answer.text)).to_owned()
}

async fn until_metric(sale: &Sale, name: &str, value: f64) {
    let is = async || (metric(sale, name).await.total_cmp(&value).is_eq()).then_some(());
    until(&format!("{name} is {value}"), is).await;
}

async fn assert_metrics(sale: &Sale, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        let found = metric(sale, name).await;
        assert!(found.total_cmp(value).is_eq(), "{name} is {found}, not {value}");
    }
}

#[tokio::test]
async fn every_metric_exists_from_the_start_with_its_type_and_help() {
    let sale = Sale::start().await;
    let answer = sale.get("/metrics").await;
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    for (name, kind) in [
        ("seckill_fence_up", "gauge"),
        ("seckill_fence_epoch", "gauge"),
        ("seckill_partition_up", "gauge"),
        ("seckill_fence_rebuilds_total", "counter"),
        ("seckill_backlog_events", "gauge"),
        ("seckill_outbox_rows", "gauge"),
        ("seckill_outbox_oldest_seconds", "gauge"),
        ("seckill_orders_reserved", "gauge"),
        ("seckill_sweeper_lag_seconds", "gauge"),
        ("seckill_waitlist_waiting", "gauge"),
        ("seckill_waitlist_joined_total", "counter"),
        ("seckill_waitlist_left_total", "counter"),
        ("seckill_waitlist_served_total", "counter"),
        ("seckill_postgres_up", "gauge"),
        ("seckill_redis_appendfsync_always", "gauge"),
        ("seckill_claims_total", "counter"),
        ("seckill_orders_recorded_total", "counter"),
        ("seckill_orders_confirmed_total", "counter"),
        ("seckill_orders_cancelled_total", "counter"),
        ("seckill_orders_revoked_total", "counter"),
        ("seckill_refunds_due_total", "counter"),
        ("seckill_transition_failures_total", "counter"),
        ("seckill_orders_expired_total", "counter"),
        ("seckill_units_returned_total", "counter"),
        ("seckill_dead_letters_total", "counter"),
        ("seckill_deleted_entries_total", "counter"),
        ("seckill_reconcile_drift", "gauge"),
        ("seckill_reconcile_drift_total", "counter"),
        ("seckill_reconcile_last_timestamp_seconds", "gauge"),
        ("seckill_claim_duration_seconds", "histogram"),
        ("seckill_evalsha_duration_seconds", "histogram"),
        ("seckill_transaction_duration_seconds", "histogram"),
        ("seckill_window_seconds", "histogram"),
        ("seckill_task_restarts_total", "counter"),
        ("seckill_build_info", "gauge"),
        ("process_start_time_seconds", "gauge"),
        ("process_open_fds", "gauge"),
    ] {
        assert!(answer.text.contains(&format!("# TYPE {name} {kind}\n")), "{name}: {}", answer.text);
        assert!(answer.text.contains(&format!("# HELP {name} ")), "{name}: {}", answer.text);
    }
    let known = ["seckill_", "process_", "# "];
    let is_unknown = |line: &&str| !known.iter().any(|start| line.starts_with(start));
    assert_eq!(answer.text.lines().find(is_unknown), None);
    until("everything was compared at the start", async || {
        (metric(&sale, "seckill_reconcile_last_timestamp_seconds{partition=\"0\"}").await > 1.6e9)
            .then_some(())
    })
    .await;
    until_metric(&sale, "seckill_redis_appendfsync_always", 1.0).await;
    assert_metrics(&sale, &[("seckill_fence_up", 1.0), ("seckill_postgres_up", 1.0)]).await;
}

#[tokio::test]
async fn places_in_waiting_lists_are_counted_as_they_are_taken_left_and_served() {
    let sale = Sale::start().await;
    sale.create_with("coffee", json!({"total": 1, "waitlist": true})).await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    for (method, user, status) in [
        (Method::POST, "bob", 201),
        (Method::POST, "bob", 200),
        (Method::POST, "carol", 201),
        (Method::POST, "dave", 201),
        (Method::DELETE, "carol", 204),
        (Method::DELETE, "carol", 204),
    ] {
        let authorization = format!("Bearer {}", sale.token(user));
        let headers = [("authorization", authorization.as_str())];
        let answer = sale.send(method, "/v1/coupons/coffee/waitlist", &headers, None).await;
        assert_eq!(answer.status, status, "{user}: {}", answer.text);
    }
    until_metric(&sale, "seckill_waitlist_waiting{partition=\"0\"}", 2.0).await;
    let restock = sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", Some(json!({"total": 2}))).await;
    assert_eq!(restock.status, 200, "{}", restock.text);
    until_metric(&sale, "seckill_waitlist_served_total", 1.0).await;
    until_metric(&sale, "seckill_waitlist_waiting{partition=\"0\"}", 1.0).await;
    let taken = [("seckill_waitlist_joined_total", 3.0), ("seckill_waitlist_left_total", 1.0)];
    assert_metrics(&sale, &taken).await;
}

#[tokio::test]
async fn claims_orders_returned_units_and_dead_letters_are_counted_as_they_happen() {
    let sale = Sale::start().await;
    sale.create("coffee", 2).await;
    for (user, status) in [("alice", 202), ("bob", 202), ("alice", 200), ("carol", 409), ("dave", 409)] {
        assert_eq!(sale.claim("coffee", user).await.status, status);
    }
    assert_eq!(sale.claim("tea", "alice").await.status, 404);
    sale.until_quiet().await;
    let by = |outcome: &str| format!("seckill_claims_total{{outcome=\"{outcome}\"}}");
    assert_metrics(
        &sale,
        &[
            (&by("accepted"), 2.0),
            (&by("held"), 1.0),
            (&by("sold-out"), 2.0),
            (&by("unknown-coupon"), 1.0),
            (&by("no-answer"), 0.0),
            ("seckill_orders_recorded_total", 2.0),
            ("seckill_dead_letters_total", 0.0),
            ("seckill_backlog_events", 0.0),
            ("seckill_outbox_rows", 0.0),
        ],
    )
    .await;
    sale.redis_cli(&["XADD", ORDERS, "*", "no", "order"]);
    until_metric(&sale, "seckill_dead_letters_total", 1.0).await;
    sale.psql(
        "begin; update orders set status = 'cancelled' where user_id = 'bob';
         update coupons set stock = stock + 1 where id = 'coffee';
         insert into outbox (order_id, coupon_id, user_id) select id, coupon_id, user_id from orders
            where user_id = 'bob'; commit",
    );
    until_metric(&sale, "seckill_units_returned_total", 1.0).await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn the_age_of_what_waits_for_the_sweeper_and_for_its_release_is_shown() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    assert_metrics(&sale, &[("seckill_sweeper_lag_seconds", 0.0), ("seckill_outbox_oldest_seconds", 0.0)])
        .await;
    sale.psql(
        "insert into orders (id, coupon_id, user_id, status, claimed_at, reserved_until)
         select gen_random_uuid(), 'coffee', 'user-' || age, 'reserved', now(), now() - age * interval '1 minute'
         from unnest(array[-60, 1, 10]) as age;
         insert into outbox (order_id, coupon_id, user_id, created_at)
         select gen_random_uuid(), 'coffee', 'x', now() - age * interval '1 minute' from unnest(array[1, 20]) as age",
    );
    let lag = metric(&sale, "seckill_sweeper_lag_seconds").await;
    let oldest = metric(&sale, "seckill_outbox_oldest_seconds").await;
    assert!((600.0..1_000.0).contains(&lag) && (1_200.0..2_000.0).contains(&oldest), "{lag} {oldest}");
    assert_metrics(&sale, &[("seckill_outbox_rows", 2.0), ("seckill_orders_reserved", 3.0)]).await;
}

#[tokio::test]
async fn a_rebuild_is_counted_by_its_cause_and_raises_the_epoch() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    let by = |cause: &str| format!("seckill_fence_rebuilds_total{{cause=\"{cause}\"}}");
    let epoch = metric(&sale, "seckill_fence_epoch{partition=\"0\"}").await;
    assert_metrics(&sale, &[(&by("first"), 1.0), (&by("scripts"), 0.0), (&by("marker"), 0.0)]).await;
    sale.redis_cli(&["SCRIPT", "FLUSH"]);
    until_metric(&sale, &by("scripts"), 1.0).await;
    sale.redis_cli(&["DEL", "seckill:{0}:epoch"]);
    until_metric(&sale, &by("marker"), 1.0).await;
    sale.until_ready().await;
    sale.redis_cli(&["HSET", "seckill:{0}:coupon:coffee", "stock", "3"]);
    assert_eq!(sale.claim("coffee", "alice").await.status, 503);
    until_metric(&sale, &by("loss"), 1.0).await;
    until_metric(&sale, "seckill_fence_epoch{partition=\"0\"}", epoch + 3.0).await;
    sale.until_ready().await;
    assert_metrics(&sale, &[("seckill_fence_up", 1.0), (&by("ordered"), 0.0)]).await;
}

#[tokio::test]
async fn a_weaker_appendfsync_is_logged_and_shown_by_a_metric_as_long_as_it_is_set() {
    let mut sale = Sale::start().await;
    until_metric(&sale, "seckill_redis_appendfsync_always", 1.0).await;
    assert!(!sale.log().contains("appendfsync"), "{}", sale.log());
    sale.redis_cli(&["CONFIG", "SET", "appendfsync", "everysec"]);
    until_metric(&sale, "seckill_redis_appendfsync_always", 0.0).await;
    sale.server().until_logged("Redis runs with appendfsync everysec").await;
    // Another process logs the setting once, at its start.
    let worker = sale.spawn("worker", &[]);
    worker.until_logged("Redis runs with appendfsync everysec").await;
    let probes = || {
        let stats = sale.redis_cli(&["INFO", "commandstats"]);
        let calls = stats.split_once("cmdstat_config|get:calls=").unwrap().1.split(',').next().unwrap();
        calls.parse::<u64>().unwrap()
    };
    let before = probes();
    until("both have probed again", async || (probes() >= before + 4).then_some(())).await;
    sale.redis_cli(&["CONFIG", "SET", "appendfsync", "always"]);
    until_metric(&sale, "seckill_redis_appendfsync_always", 1.0).await;
    sale.redis_cli(&["CONFIG", "SET", "appendonly", "no"]);
    until_metric(&sale, "seckill_redis_appendfsync_always", 0.0).await;
    sale.server().until_logged("Redis runs with appendonly no").await;
    assert_eq!(sale.log().matches("Redis runs with appendfsync everysec").count(), 1);
}

#[tokio::test]
async fn a_redis_that_does_not_show_its_appendfsync_counts_as_weaker() {
    let mut sale = Sale::start().await;
    until_metric(&sale, "seckill_redis_appendfsync_always", 1.0).await;
    sale.redis_cli(&["ACL", "SETUSER", "default", "-config"]);
    until_metric(&sale, "seckill_redis_appendfsync_always", 0.0).await;
    sale.server().until_logged("Redis does not show its appendfsync").await;
    assert_eq!(sale.get("/readyz").await.status, 200, "claims go on");
    sale.redis_cli(&["ACL", "SETUSER", "default", "+config"]);
}

/// An address of this machine that is not loopback, if it has one.
fn other_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().unwrap().ip()).filter(|ip| !ip.is_loopback())
}

#[tokio::test]
async fn metrics_and_verbose_readiness_require_the_admin_token_off_loopback() {
    let sale = Sale::start().await;
    let replica = sale.spawn_by_address("serve", &[], &[("SECKILL_LISTEN", "0.0.0.0:0")]);
    let url = replica.url_when_up().await;
    let Some(ip) = other_address() else { return eprintln!("this machine has no other address") };
    let away = url.replace("0.0.0.0", &ip.to_string());
    let status = async |url: String, token: Option<String>| {
        let mut request = sale.client.request(Method::GET, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap().status().as_u16()
    };
    for path in ["metrics", "readyz?verbose"] {
        assert_eq!(status(format!("{away}/{path}"), None).await, 401, "{path}");
        assert_eq!(status(format!("{away}/{path}"), Some(sale.token("alice"))).await, 401, "{path}");
        assert_eq!(status(format!("{away}/{path}"), Some(sale.admin_token())).await, 200, "{path}");
        assert_eq!(status(url.replace("0.0.0.0", "127.0.0.1") + "/" + path, None).await, 200, "{path}");
    }
    assert_eq!(status(format!("{away}/readyz"), None).await, 200);
}

#[tokio::test]
async fn readiness_names_the_unreachable_store_and_the_time_since_when() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    let (redis, postgres) = (sale.redis_pid(), sale.postgres_pids());
    assert_eq!(
        sale.get("/readyz?verbose").await.body["stores"]["postgres_away_since"],
        serde_json::Value::Null
    );

    // Without Postgres claims go on; verbose readiness reports the outage.
    support::signal_all(&postgres, Signal::SIGSTOP);
    let answer = until("the Postgres outage is reported", async || {
        let answer = sale.get("/readyz?verbose").await;
        let is_told = answer.body["stores"]["postgres_away_since"].is_string();
        is_told.then_some(answer)
    })
    .await;
    assert_eq!((answer.status, &answer.body["stores"]["redis"]), (200, &"ok".into()), "{answer:?}");
    assert!(answer.body["stores"]["postgres"].as_str().unwrap().starts_with("Postgres"), "{answer:?}");
    assert!(answer.body["stores"]["postgres_away_since"].as_str().unwrap().ends_with('Z'), "{answer:?}");
    assert_eq!(sale.get("/readyz").await.status, 200);
    assert_metrics(&sale, &[("seckill_postgres_up", 0.0), ("seckill_fence_up", 1.0)]).await;
    assert!(metric(&sale, "seckill_outbox_rows").await.is_nan());
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    support::signal_all(&postgres, Signal::SIGCONT);
    until_metric(&sale, "seckill_postgres_up", 1.0).await;
    until("Postgres is back", async || {
        let stores = &sale.get("/readyz?verbose").await.body["stores"];
        (stores["postgres"] == "ok" && stores["postgres_away_since"].is_null()).then_some(())
    })
    .await;

    signal(redis, Signal::SIGSTOP);
    let answer = until("the Redis outage is reported", async || {
        let answer = sale.get("/readyz?verbose").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    answer.assert_problem(503, "unavailable");
    assert!(answer.body["detail"].as_str().unwrap().contains("Redis"), "{answer:?}");
    assert!(answer.body["stores"]["redis"].as_str().unwrap().contains("Redis"), "{answer:?}");
    assert_eq!(answer.body["stores"]["postgres"], "ok", "{answer:?}");
    assert_eq!(sale.get("/livez").await.status, 200);
    assert_metrics(&sale, &[("seckill_fence_up", 0.0)]).await;
    signal(redis, Signal::SIGCONT);
    sale.until_ready().await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_server_that_waits_for_postgres_at_its_start_says_so() {
    let sale = Sale::start().await;
    let nowhere = [("DATABASE_URL", "postgres://seckill@127.0.0.1:1/seckill")];
    let replica = sale.spawn_by_address("serve", &[], &nowhere);
    let url = until("the replica listens", async || {
        let first = replica.log().lines().next()?.strip_prefix("listening on ").map(str::to_owned);
        first.filter(|_| replica.log().contains("waiting for Postgres"))
    })
    .await;
    let answer = sale.client.get(format!("{url}/readyz")).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 503);
    let text = answer.text().await.unwrap();
    assert!(text.contains("waiting for Postgres: "), "{text}");
    assert_eq!(sale.client.get(format!("{url}/livez")).send().await.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn a_worker_shows_its_health_and_its_own_metrics() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 5).await;
    let mut worker =
        sale.spawn("worker", &[("SECKILL_WORKERS", "1"), ("SECKILL_METRICS_LISTEN", "127.0.0.1:0")]);
    let url = worker.url_when_up().await;
    let get = async |path: &str| {
        let answer = sale.client.get(format!("{url}/{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    until("the worker is ready", async || (get("readyz").await.0 == 200).then_some(())).await;
    assert_eq!(get("livez").await.0, 200);
    assert_eq!(get("v1/coupons").await.0, 404, "a worker has no API");
    let posted = sale.client.post(format!("{url}/metrics")).send().await.unwrap();
    assert_eq!((posted.status().as_u16(), &posted.headers()["allow"]), (405, &"GET, HEAD".parse().unwrap()));

    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    sale.until_quiet().await;
    let (status, text) = get("metrics").await;
    assert_eq!(status, 200, "{text}");
    for line in [
        "seckill_orders_recorded_total 1",
        "seckill_window_seconds_count 1",
        "seckill_transaction_duration_seconds_count{kind=\"record\"} 1",
        "seckill_fence_up 1",
        "seckill_backlog_events 0",
        "seckill_outbox_rows 0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
    }
    // They would say that claims are refused.
    for name in ["seckill_ready", "seckill_backlog_max_events"] {
        assert!(!text.contains(name), "{name} in:\n{text}");
    }
    let redis = sale.redis_pid();
    signal(redis, Signal::SIGSTOP);
    until("the worker is not ready", async || (get("readyz").await.0 == 503).then_some(())).await;
    signal(redis, Signal::SIGCONT);
    until("the worker is ready again", async || (get("readyz").await.0 == 200).then_some(())).await;
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait().success());
}

#[tokio::test]
async fn the_metrics_of_a_worker_require_the_admin_token_off_loopback() {
    let sale = Sale::start().await;
    let worker = sale.spawn("worker", &[("SECKILL_METRICS_LISTEN", "0.0.0.0:0")]);
    let url = worker.url_when_up().await;
    let Some(ip) = other_address() else { return eprintln!("this machine has no other address") };
    let away = url.replace("0.0.0.0", &ip.to_string());
    for (path, token, status) in [
        ("metrics", None, 401),
        ("metrics", Some(sale.token("alice")), 401),
        ("metrics", Some(sale.admin_token()), 200),
        ("readyz", None, 200),
        ("livez", None, 200),
    ] {
        let mut request = sale.client.get(format!("{away}/{path}"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        assert_eq!(request.send().await.unwrap().status().as_u16(), status, "{path}");
    }
}
