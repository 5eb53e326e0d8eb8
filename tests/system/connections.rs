//! How many connections to Postgres a process holds.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use support::external_store::{ExternalStore, folder};
use support::{Sale, until};

use crate::counterexamples::on_own_stores;
use crate::doctor::diagnosis::diagnose_at;

const PARTITIONS: i64 = 16;
const LIMIT: i64 = 12;
const SESSIONS: &str = "select count(*) from pg_stat_activity where application_name like 'seckill%'";

/// Counts the program's sessions all the time; `most` returns the largest number.
struct Counting {
    stop: Arc<AtomicBool>,
    counter: JoinHandle<i64>,
}

impl Counting {
    fn start(sale: &Sale) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let address = format!(
            "host={} user=seckill dbname=seckill",
            sale.postgres_socket().parent().unwrap().display()
        );
        let stopped = stop.clone();
        let counter = std::thread::spawn(move || {
            let mut most = 0;
            while !stopped.load(Ordering::Relaxed) {
                let mut psql = Command::new("psql");
                let output = psql.args(["-X", "-q", "-A", "-t", "-c", SESSIONS, &address]).output().unwrap();
                let text = String::from_utf8(output.stdout).unwrap();
                let now: i64 = text
                    .trim()
                    .parse()
                    .unwrap_or_else(|_| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)));
                most = most.max(now);
            }
            most
        });
        Self { stop, counter }
    }

    fn most(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        self.counter.join().unwrap()
    }
}

/// Each partition's coupon.
fn coupons() -> Vec<String> {
    (0..PARTITIONS).map(|number| format!("coupon-{number}")).collect()
}

/// Each of the users claims each coupon; the orders.
async fn claim_all(sale: &Sale, users: std::ops::Range<usize>) -> Vec<String> {
    let coupons = coupons();
    let claims =
        coupons.iter().flat_map(|coupon| users.clone().map(move |user| (coupon, format!("user-{user}"))));
    let claims = claims.map(async |(coupon, user)| {
        until("the claim is accepted", async || {
            let answer = sale.claim(coupon, &user).await;
            (answer.status == 202 || answer.status == 200)
                .then(|| answer.body["order"].as_str().unwrap().to_owned())
        })
        .await
    });
    join_all(claims).await
}

async fn until_up(sale: &Sale) {
    until("all partitions are up", async || {
        let metrics = sale.get("/metrics").await.text;
        let is_up = |line: &&str| line.starts_with("seckill_partition_up{") && line.ends_with(" 1");
        (metrics.lines().filter(is_up).count() == 16).then_some(())
    })
    .await;
}

async fn until_recorded(sale: &Sale, orders: usize) {
    until("all orders are recorded", async || {
        (sale.psql_number("select count(*) from orders") == i64::try_from(orders).unwrap()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_partitions_sell_record_and_rebuild_on_the_connections_of_the_setting() {
    let sale =
        Sale::start_with(&[("SECKILL_PARTITIONS", "16"), ("SECKILL_POSTGRES_CONNECTIONS", "12")]).await;
    until_up(&sale).await;
    let counting = Counting::start(&sale);
    for coupon in coupons() {
        sale.create_with(&coupon, json!({"total": 40, "reserve_seconds": 900})).await;
    }
    let partitions = "select count(distinct partition) from coupons";
    assert_eq!(sale.psql_number(partitions), PARTITIONS);
    let mut orders = claim_all(&sale, 0..10).await;
    until_recorded(&sale, 160).await;
    let cancelled = orders.split_off(80);
    let confirms = orders.iter().map(|order| (order, "confirm"));
    let ends = confirms.chain(cancelled.iter().map(|order| (order, "cancel")));
    let ends = ends.map(async |(order, what)| {
        let answer = sale.admin(Method::POST, &format!("/v1/orders/{order}/{what}"), None).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    });
    join_all(ends).await;
    orders.extend(claim_all(&sale, 10..20).await);
    until_recorded(&sale, 320).await;
    sale.assert_recorded(&orders);
    let most = counting.most();
    assert!((2..=LIMIT).contains(&most), "{most} connections");

    let counting = Counting::start(&sale);
    let epochs = sale.psql("select epoch from fence");
    sale.redis_cli(&["FLUSHALL"]);
    until("all partitions have new epochs", async || {
        let now = sale.psql("select epoch from fence");
        (now.lines().count() == 16 && now.lines().all(|epoch| !epochs.contains(epoch))).then_some(())
    })
    .await;
    until_up(&sale).await;
    orders.extend(claim_all(&sale, 20..25).await);
    until_recorded(&sale, 400).await;
    sale.assert_recorded(&orders);
    let most = counting.most();
    assert!(most <= LIMIT + 1, "{most} connections during a rebuild");
    println!("{most} connections with rebuilds");
}

#[tokio::test]
async fn the_doctor_warns_if_postgres_has_too_few_connections_for_all_processes_together() {
    let postgres = ExternalStore::postgres(&["max_connections=60"]).await;
    let redis = ExternalStore::redis(&[], folder());
    let sale = on_own_stores(&redis.url("redis"), &postgres).await;
    let others = [(); 2].map(|()| sale.spawn("serve", &[("SECKILL_WORKERS", "0")]));
    until("three processes compare", async || {
        let count = "select count(*) from pg_stat_activity where application_name = 'seckill comparisons'";
        (sale.psql_number(count) == 3).then_some(())
    })
    .await;
    // A request that waits opens another session of the program, which is not one of other programs.
    sale.create("coffee", 10).await;
    let claim = sale.claim_with("coffee", "alice", &[("prefer", "wait=1")]).await;
    assert_eq!(claim.status, 201, "{}", claim.text);
    until("a session listens", async || {
        let count = "select count(*) from pg_stat_activity where application_name = 'seckill notices'";
        (sale.psql_number(count) == 1).then_some(())
    })
    .await;
    let diagnose = |environment| diagnose_at(&redis.url("redis"), &postgres.url("postgres"), environment);
    let check = "postgres-connections";
    let found = diagnose(&[]);
    found.assert(check, "yellow", "3 processes of this program may open 63, but 57 are left for them");
    let advice = found.find(check)["do"].as_str().unwrap().to_owned();
    assert_eq!(advice, "set max_connections to 66 or more, or lower SECKILL_POSTGRES_CONNECTIONS");
    diagnose(&[("SECKILL_POSTGRES_CONNECTIONS", "18")]).assert(
        check,
        "green",
        "of 60 connections are in use",
    );
    diagnose(&[("SECKILL_POSTGRES_CONNECTIONS", "19")]).assert(check, "yellow", "may open 60, but 57");
    drop(others);
}
