//! Several processes on the same stores: how one hears what another one records.

mod rolling;

use std::cell::Cell;
use std::fs;
use std::path::Path;

use futures_util::future::join_all;
use serde_json::json;

use support::external_store::{ExternalStore, folder};
use support::{Answer, Process, Sale, until};

use crate::counterexamples::on_own_stores;
use crate::metrics::count;

const NO_WORKERS: (&str, &str) = ("SECKILL_WORKERS", "0");
const WAIT: (&str, &str) = ("prefer", "wait=10");
/// Sessions that listen.
const LISTENERS: &str = "select coalesce(string_agg(pid::text, ','), '') from pg_stat_activity
    where application_name = 'seckill notices' and wait_event = 'ClientRead'";

async fn woken(sale: &Sale, by: &str) -> u64 {
    count(sale, &format!("seckill_waiters_woken_total{{found_by=\"{by}\"}}")).await
}

/// Each of the users claims and waits for the order's row.
async fn claim_and_wait(sale: &Sale, users: std::ops::Range<usize>) -> Vec<Answer> {
    join_all(
        users.map(|user| async move { sale.claim_with("coffee", &format!("user-{user}"), &[WAIT]).await }),
    )
    .await
}

/// The pid of the one session that listens.
async fn until_listening(sale: &Sale, not: &str) -> String {
    until("a session listens", async || {
        let pid = sale.psql(LISTENERS);
        (!pid.is_empty() && pid != not).then_some(pid)
    })
    .await
}

fn worker(sale: &Sale) -> Process {
    sale.spawn("worker", &[("SECKILL_WORKERS", "1")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_tells_the_waiting_clients_of_a_process_what_another_one_has_recorded() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 1_000).await;
    let recorder = worker(&sale);
    let answers = claim_and_wait(&sale, 0..200).await;
    for answer in &answers {
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
    // A slow machine may let the poll find some.
    let (by_notice, by_poll) = (woken(&sale, "notice").await, woken(&sale, "poll").await);
    assert_eq!((by_notice + by_poll, woken(&sale, "worker").await), (200, 0));
    assert!(by_notice >= 150, "{by_notice} by a notice, {by_poll} by the poll");

    // A session that ends is opened again as soon as a request waits.
    let pid = until_listening(&sale, "").await;
    sale.psql(&format!("select pg_terminate_backend({pid})"));
    let users = Cell::new(200);
    until("another session listens", async || {
        let user = users.replace(users.get() + 1);
        assert_eq!(claim_and_wait(&sale, user..user + 1).await[0].status, 201);
        let now = sale.psql(LISTENERS);
        (!now.is_empty() && now != pid).then_some(())
    })
    .await;
    let (before, first) = (woken(&sale, "notice").await, users.get());
    for answer in claim_and_wait(&sale, first..first + 200).await {
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
    assert!(woken(&sale, "notice").await >= before + 150);
    assert!(recorder.stop().success());
    sale.assert_in_agreement("coffee").await;
}

/// Writes the order of the user's claim as a process whose notice is lost.
async fn record_silently(sale: &Sale, user: &str) {
    let order = until("the claim is made", async || {
        let order = sale.redis_cli(&["HGET", "seckill:{0}:claims:coffee", user]);
        (!order.is_empty()).then_some(order)
    })
    .await;
    sale.psql(&format!(
        "begin; insert into orders (id, coupon_id, user_id, status, claimed_at)
             values ('{order}', 'coffee', '{user}', 'confirmed', now());
         update coupons set stock = stock - 1 where id = 'coffee'; commit"
    ));
}

#[tokio::test]
async fn an_order_whose_notice_is_lost_is_found_by_the_poll() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    sale.create("coffee", 10).await;
    // Opens the session; everything is read once when it is open.
    let first = sale.claim_with("coffee", "carol", &[("prefer", "wait=1")]).await;
    assert_eq!(first.status, 202, "{}", first.text);
    until_listening(&sale, "").await;
    for user in ["alice", "bob"] {
        let before = woken(&sale, "poll").await;
        let (answer, ()) =
            tokio::join!(sale.claim_with("coffee", user, &[WAIT]), record_silently(&sale, user));
        assert_eq!(answer.status, 201, "{}", answer.text);
        assert_eq!(woken(&sale, "poll").await, before + 1);
    }
    assert_eq!(woken(&sale, "notice").await, 0);
    let _worker = worker(&sale);
    sale.assert_in_agreement("coffee").await;
}

/// How many statements that read orders by their ids the log has.
fn reads(postgres: &ExternalStore) -> usize {
    let logs = fs::read_dir(postgres.dir.path().join("cluster/statements")).unwrap();
    let texts = logs.map(|log| fs::read_to_string(log.unwrap().path()).unwrap());
    texts.map(|text| text.matches("from orders where id = any($1)").count()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_wait_cost_one_query_a_second_however_many_they_are() {
    let settings = ["log_statement=all", "logging_collector=on", "log_directory=statements"];
    let (redis, postgres) = (ExternalStore::redis(&[], folder()), ExternalStore::postgres(&settings).await);
    let mut sale = on_own_stores(&redis.url("redis"), &postgres).await;
    assert!(sale.stop().success());
    let process = sale.spawn("serve", &[NO_WORKERS]);
    sale.use_as_server(process).await;
    sale.until_ready().await;
    assert!(Path::new(&postgres.dir.path().join("cluster/statements")).exists());
    sale.create_with("coffee", json!({"total": 1_000, "durability": "redis"})).await;
    let before = reads(&postgres);
    let answers = claim_and_wait(&sale, 0..100).await;
    let read = reads(&postgres) - before;
    for answer in &answers {
        assert_eq!(answer.status, 202, "{}", answer.text);
    }
    // Ten seconds of waiting; a process that asks every 50 ms reads 200 times.
    println!("{read} queries");
    assert!((1..40).contains(&read), "{read} queries for 100 clients that waited for 10 s");
}
