//! The log of a healthy program, and of a program with very many equal events.

use nix::sys::signal::Signal;

use support::{Process, Sale, signal_all, until};

const ORDERS: &str = "seckill:{0}:orders";
/// The most lines for very many equal events: the first ones, and a summary for each window.
const STORM_MAX_LINES: usize = 30;

/// The lines at WARN or ERROR.
fn alarms(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect()
}

/// How many events with this text were logged or counted in a summary, and in how many lines.
fn count_of(log: &str, text: &str) -> (u64, usize) {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(text)).collect();
    let repeats = |line: &&str| {
        line.split_once(" repeats=").map(|(_, rest)| rest.split(' ').next().unwrap().parse::<u64>().unwrap())
    };
    let count = lines.iter().map(|line| repeats(line).unwrap_or(1)).sum();
    (count, lines.len())
}

fn stop_and_read(process: Process) -> String {
    let (status, log) = process.stop_and_read();
    assert!(status.success(), "{status}: {log}");
    log
}

#[tokio::test]
async fn healthy_starts_stops_and_restarts_raise_no_alarm() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 10).await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    sale.until_quiet().await;
    for start in ["first", "second", "third"] {
        let log = sale.stop_and_read();
        assert_eq!(alarms(&log), Vec::<&str>::new(), "{start} start");
        assert!(
            log.contains("fence down: ") && log.contains("rebuild begins") && log.contains("fence up"),
            "{log}"
        );
        sale.start_server().await;
    }
    // A killed program leaves its stores running: one warning for each store, and no other.
    sale.kill_9();
    sale.start_server().await;
    let log = sale.stop_and_read();
    assert!(alarms(&log).iter().all(|line| line.contains("was left running")), "{log}");
    assert_eq!(alarms(&log).len(), 2, "{log}");
    sale.start_server().await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_restart_of_redis_alone_is_logged_without_an_alarm() {
    let mut sale = Sale::start().await;
    support::signal(sale.redis_pid(), Signal::SIGTERM);
    sale.server().until_logged("Redis is back").await;
    sale.server().until_logged("rebuild of epoch 2").await;
    sale.until_ready().await;
    let log = sale.log();
    for line in [
        "Redis was told to stop",
        "fence down: Redis has restarted",
        "rebuild begins epoch 2",
        "rebuild of epoch 2",
    ] {
        let logged = log.lines().find(|logged| logged.contains(line)).expect(line);
        assert!(logged.contains(" INFO "), "{logged}");
    }
}

#[tokio::test]
async fn a_loss_is_still_an_alarm() {
    let mut sale = Sale::start().await;
    sale.redis_cli(&["DEL", "seckill:{0}:epoch"]);
    sale.server().until_logged("rebuild begins epoch 2").await;
    sale.until_ready().await;
    assert!(alarms(&sale.log()).iter().any(|line| line.contains("rebuild begins epoch 2")), "{}", sale.log());
}

#[tokio::test]
async fn a_thousand_dead_letters_are_logged_in_a_few_lines_that_add_up() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    let add = "for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '*', 'no', 'order') end";
    sale.redis_cli(&["EVAL", add, "1", ORDERS, "1000"]);
    let worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    sale.until_quiet().await;
    assert_eq!(sale.psql_number("select count(*) from dead_letters"), 1_000);
    let log = stop_and_read(worker);
    let (count, lines) = count_of(&log, "is a dead letter");
    assert_eq!(count, 1_000, "{log}");
    assert!(lines <= STORM_MAX_LINES, "{log}");
    assert!(log.contains("more lines like this one in"), "{log}");
}

#[tokio::test]
async fn a_thousand_rejected_orders_are_logged_in_a_few_lines_that_add_up() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 1_000).await;
    let claims = (0..1_000).map(|n| {
        let sale = &sale;
        async move { assert_eq!(sale.claim("coffee", &format!("user-{n}")).await.status, 202) }
    });
    futures_util::future::join_all(claims).await;
    sale.psql("update coupons set stock = 0");
    let worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1"), ("SECKILL_LOG_FORMAT", "json")]);
    sale.until_quiet().await;
    assert_eq!(sale.psql_number("select count(*) from orders where status = 'rejected'"), 1_000);
    let log = stop_and_read(worker);
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_rejections: Vec<_> = lines
        .iter()
        .map(|line| &line["fields"])
        .filter(|fields| fields["message"].as_str().unwrap().contains(" rejected: "))
        .collect();
    let count: u64 = of_rejections.iter().map(|fields| fields["repeats"].as_u64().unwrap_or(1)).sum();
    assert_eq!(count, 1_000, "{log}");
    assert!(of_rejections.len() <= STORM_MAX_LINES, "{log}");
    assert_eq!(of_rejections[0]["coupon"], "coffee", "the first ones keep their fields");
    assert!(of_rejections.last().unwrap()["message"].as_str().unwrap().contains("no stock left"), "{log}");
}

#[tokio::test]
async fn an_unreachable_store_is_logged_when_it_fails_and_when_it_recovers() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 10).await;
    let postgres = support::proxy::Proxy::before(&sale.postgres_socket());
    let worker = sale.spawn_by_address("worker", &[&postgres], &[("SECKILL_WORKERS", "3")]);
    worker.until_logged("workers are at work").await;
    assert_eq!(sale.claim_with("coffee", "alice", &[("prefer", "wait=10")]).await.status, 201);
    postgres.refuse();
    assert_eq!(sale.claim("coffee", "bob").await.status, 202);
    worker.until_logged(" has to wait: ").await;
    // Each worker tries again about once a second.
    let deliveries = || {
        let pending = sale.redis_cli(&["XPENDING", ORDERS, "order-writers", "-", "+", "1"]);
        pending.lines().last().and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    until("its entry was tried twenty times", async || (deliveries() >= 20).then_some(())).await;
    postgres.accept_again();
    worker.until_logged(" goes on after ").await;
    sale.until_quiet().await;
    let log = stop_and_read(worker);
    assert!(alarms(&log).len() <= STORM_MAX_LINES, "{log}");
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_stopped_postgres_costs_a_few_log_lines() {
    let mut sale = Sale::start_with(&[("SECKILL_WORKERS", "4")]).await;
    sale.create("coffee", 100).await;
    let postgres = sale.postgres_pids();
    signal_all(&postgres, Signal::SIGSTOP);
    for n in 0..20 {
        assert_eq!(sale.claim("coffee", &format!("user-{n}")).await.status, 202);
    }
    sale.server().until_logged(" has to wait: ").await;
    signal_all(&postgres, Signal::SIGCONT);
    sale.assert_in_agreement("coffee").await;
    assert!(alarms(&sale.log()).len() <= STORM_MAX_LINES, "{}", sale.log());
}
