//! Processes and stores are killed, stopped and restarted during work: no accepted claim is lost, and no user gets two
//! units.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use nix::sys::signal::Signal;

use support::{Sale, signal, signal_all, until};

const QUICK_RECLAIM: (&str, &str) = ("SECKILL_RECLAIM_AFTER", "200ms");

fn pending(sale: &Sale) -> i64 {
    let summary = sale.redis_cli(&["XPENDING", "seckill:{0}:orders", "order-writers"]);
    summary.lines().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_worker_killed_between_commit_and_acknowledgement_leaves_one_order() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 10).await;
    let worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    let lock = sale.lock_coupon("coffee").await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    sale.until_a_worker_waits().await;
    // From now on Redis runs no XACK; the transaction still commits.
    sale.redis_cli(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    lock.release();
    until("the order is a row", async || {
        (sale.psql_number("select count(*) from orders") == 1).then_some(())
    })
    .await;
    worker.kill_9();
    sale.redis_cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    sale.redis_cli(&["CLIENT", "UNPAUSE"]);
    assert_eq!(pending(&sale), 1);

    let _second_worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1"), QUICK_RECLAIM]);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.psql("select count(*), max(user_id) from orders"), "1|alice");
    assert_eq!(sale.psql_number("select count(*) from dead_letters"), 0);
}

#[tokio::test]
async fn a_worker_killed_before_its_commit_leaves_its_entry_to_another() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 10).await;
    let worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    let lock = sale.lock_coupon("coffee").await;
    let order = sale.claim("coffee", "alice").await.body["order"].as_str().unwrap().to_owned();
    sale.until_a_worker_waits().await;
    worker.kill_9();
    lock.release();
    assert_eq!(pending(&sale), 1);

    let _second_worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1"), QUICK_RECLAIM]);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.psql("select id from orders"), order);
}

#[tokio::test]
async fn a_transaction_opened_before_a_flush_is_counted_by_the_rebuild() {
    let sale = Sale::start_with(&[QUICK_RECLAIM]).await;
    sale.create("coffee", 10).await;
    let before = sale.epoch();
    let lock = sale.lock_coupon("coffee").await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    sale.until_a_worker_waits().await;
    sale.redis_cli(&["FLUSHALL"]);
    until("a rebuild waits for the open transaction, or it has ended", async || {
        let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
        (sale.psql_number(waiting) > 0 || sale.epoch() != before).then_some(())
    })
    .await;
    lock.release();
    until("a new epoch is in force", async || (sale.epoch() != before).then_some(())).await;
    sale.until_ready().await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn claims_go_on_while_postgres_is_stopped_for_ten_seconds_and_none_is_lost() {
    let sale = Sale::start_with(&[QUICK_RECLAIM]).await;
    sale.create("coffee", 100_000).await;
    let pids = sale.postgres_pids();
    signal_all(&pids, Signal::SIGSTOP);
    let stopped = tokio::time::Instant::now();
    let mut accepted = Vec::new();
    while stopped.elapsed() < Duration::from_secs(10) {
        let user = format!("user-{}", accepted.len());
        let answer = sale.claim("coffee", &user).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        accepted.push(answer.body["order"].as_str().unwrap().to_owned());
    }
    signal_all(&pids, Signal::SIGCONT);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.psql_number("select count(*) from orders"), i64::try_from(accepted.len()).unwrap());
    assert_eq!(sale.psql_number("select count(*) from dead_letters"), 0);
}

#[tokio::test]
async fn postgres_killed_again_and_again_makes_no_dead_letter() {
    let sale = Sale::start_with(&[QUICK_RECLAIM]).await;
    sale.create("coffee", 100_000).await;
    let mut accepted = 0;
    for _ in 0..3 {
        signal(sale.postgres_pids()[0], Signal::SIGKILL);
        for _ in 0..50 {
            accepted += i64::from(sale.claim("coffee", &format!("user-{accepted}")).await.status == 202);
        }
        until("Postgres answers again", async || {
            let psql = sale.command().args(["psql", "-X", "-c", "select 1"]).output().unwrap();
            psql.status.success().then_some(())
        })
        .await;
    }
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.psql_number("select count(*) from orders"), accepted);
    assert_eq!(sale.psql_number("select count(*) from dead_letters"), 0);
}

/// Claims like a real client: repeats the claim after every answer that leaves the result unknown.
async fn claim_until_answered(sale: &Sale, coupon: &str, user: &str) -> Option<String> {
    until("the claim is answered", async || {
        let answer = sale.claim(coupon, user).await;
        match answer.status {
            200..=202 => Some(Some(answer.body["order"].as_str().unwrap().to_owned())),
            409 => Some(None),
            _ => None,
        }
    })
    .await
}

#[tokio::test]
async fn redis_killed_under_load_loses_no_order_and_gives_no_user_two() {
    let sale = Sale::start_with(&[QUICK_RECLAIM]).await;
    sale.create("coffee", 300).await;
    let killer = async {
        for _ in 0..3 {
            signal(sale.redis_pid(), Signal::SIGKILL);
            tokio::time::sleep(Duration::from_millis(300)).await;
            sale.until_ready().await;
        }
    };
    let buyers =
        futures_util::stream::iter(0..500)
            .map(|n| {
                let sale = &sale;
                async move {
                    (format!("user-{n}"), claim_until_answered(sale, "coffee", &format!("user-{n}")).await)
                }
            })
            .buffer_unordered(16)
            .collect::<HashMap<_, _>>();
    let ((), claims) = tokio::join!(killer, buyers);
    sale.assert_in_agreement("coffee").await;
    let rows = sale.psql("select user_id, id from orders where status = 'confirmed'");
    let recorded: HashMap<&str, &str> = rows.lines().map(|row| row.split_once('|').unwrap()).collect();
    assert_eq!(recorded.len(), rows.lines().count(), "a user has two orders");
    for (user, order) in claims {
        assert_eq!(order.as_deref(), recorded.get(user.as_str()).copied(), "{user}");
    }
    assert_eq!(recorded.len(), 300);
}

#[tokio::test]
async fn a_killed_program_starts_again_and_finds_every_accepted_claim() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 1_000).await;
    for round in 0..2 {
        let (url, pid) = (sale.url.clone(), sale.server().pid());
        let stores = [sale.redis_pid(), sale.postgres_pids()[0]];
        let answers: Vec<_> = futures_util::stream::iter(0..300)
            .map(|n| {
                let sale = &sale;
                async move {
                    if n == 150 {
                        signal(pid, Signal::SIGKILL);
                    }
                    sale.claim("coffee", &format!("user-{round}-{n}")).await
                }
            })
            .buffer_unordered(32)
            .collect()
            .await;
        if round == 1 {
            // Also kills the stores: no process of the sale is left.
            signal_all(&stores, Signal::SIGKILL);
        }
        sale.kill_9();
        sale.start_server().await;
        assert_ne!(url, sale.url);
        sale.assert_in_agreement("coffee").await;
        let accepted = answers.iter().filter(|answer| answer.status == 202);
        let accepted: Vec<String> =
            accepted.map(|answer| format!("'{}'", answer.body["order"].as_str().unwrap())).collect();
        let rows = format!("select count(*) from orders where id in ({})", accepted.join(","));
        assert_eq!(sale.psql_number(&rows), i64::try_from(accepted.len()).unwrap());
    }
    assert!(sale.stop().success());
}
