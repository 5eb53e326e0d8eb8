//! Rebuilds that are killed, overtaken or disturbed at each of their steps, and workers and edits during a rebuild.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use support::proxy::{EVALSHA, Proxy, Trap};
use support::{Process, Sale, until};

const CLAIMS: &str = "seckill:{0}:claims:coffee";
const COUPON: &str = "seckill:{0}:coupon:coffee";
const ORDERS: &str = "seckill:{0}:orders";
const EPOCH: &str = "seckill:{0}:epoch";

/// The text that identifies each step of a rebuild on the connection to Redis. The text of a command includes its line
/// ends, because scripts contain the command's name too.
const STEPS: [&[&str]; 7] = [
    &["Begins a rebuild"],
    &["\r\nHSCAN\r\n"],
    &["\r\nXPENDING\r\n"],
    &["Applies a part of a rebuild's differences"],
    &["Sets a coupon to Postgres's definition"],
    &["Appends the order events"],
    &["Ends a rebuild"],
];

/// A sale with two servers. One rebuilds, and the proxy holds it at a given step. The other one, which has workers, is
/// suspended.
struct Race {
    sale: Sale,
    proxy: Proxy,
    /// The orders of all accepted claims.
    orders: Vec<String>,
    users: usize,
}

impl Race {
    async fn start() -> Self {
        let sale = Sale::start_with(&[("SECKILL_RECLAIM_AFTER", "200ms")]).await;
        sale.create("coffee", 1_000).await;
        let proxy = Proxy::before(&sale.redis_socket());
        Self { sale, proxy, orders: Vec::new(), users: 0 }
    }

    async fn claim(&mut self) {
        self.users += 1;
        let user = format!("user-{}", self.users);
        let sale = &self.sale;
        let order = until("the claim is accepted", async || {
            let answer = sale.claim("coffee", &user).await;
            assert!([202, 503].contains(&answer.status), "{}", answer.text);
            (answer.status == 202).then(|| answer.body["order"].as_str().unwrap().to_owned())
        })
        .await;
        self.orders.push(order);
    }

    /// Makes two recorded orders and two unrecorded claims. Then deletes the stream and the claim of a recorded order,
    /// and holds the rebuild of a new server at `step`.
    async fn hold_at(&mut self, step: &[&str]) -> (Process, Trap, String) {
        self.claim().await;
        self.claim().await;
        self.sale.until_quiet().await;
        let recorded = format!("user-{}", self.users);
        self.sale.server().signal(Signal::SIGSTOP);
        let environment = [("SECKILL_WORKERS", "0"), ("SECKILL_LOG", "seckill::reconcile=debug,info")];
        let rebuilder = self.sale.spawn_by_address("serve", &[&self.proxy], &environment);
        let home = std::mem::replace(&mut self.sale.url, rebuilder.url_when_up().await);
        // Waits until the server knows that the other one compares: a comparison sends some commands of a rebuild too.
        rebuilder.until_logged("reconcile: ").await;
        self.claim().await;
        self.claim().await;
        let trap = self.proxy.hold(step);
        self.sale.redis_cli(&["DEL", ORDERS]);
        self.sale.redis_cli(&["HDEL", CLAIMS, &recorded]);
        trap.until_taken().await;
        (rebuilder, trap, home)
    }

    /// Continues the other server, which then rebuilds.
    async fn wake(&mut self, home: String) {
        self.sale.url = home;
        self.sale.server().signal(Signal::SIGCONT);
        self.claim().await;
    }

    async fn assert_in_agreement(&self) {
        self.sale.assert_in_agreement("coffee").await;
        self.sale.assert_recorded(&self.orders);
        assert_eq!(self.sale.psql_number("select count(*) from dead_letters"), 0);
    }
}

#[tokio::test]
async fn a_rebuild_killed_at_any_step_is_done_again_by_another_process() {
    let mut race = Race::start().await;
    for step in STEPS {
        let (rebuilder, trap, home) = race.hold_at(step).await;
        rebuilder.kill_9();
        race.wake(home).await;
        race.assert_in_agreement().await;
        // The last request of the killed server arrives late.
        trap.release();
        race.claim().await;
        race.assert_in_agreement().await;
    }
}

#[tokio::test]
async fn a_rebuilder_whose_lock_postgres_dropped_writes_nothing_over_live_claims() {
    let mut race = Race::start().await;
    for step in STEPS {
        let (rebuilder, trap, home) = race.hold_at(step).await;
        let dropped = race.sale.psql(
            "select count(pg_terminate_backend(pid)) from pg_locks
             where locktype = 'advisory' and mode = 'ExclusiveLock' and granted and objsubid = 1
                and pid in (select pid from pg_stat_activity where application_name = 'seckill')",
        );
        assert_eq!(dropped, "1", "the session of the rebuild");
        race.wake(home).await;
        race.claim().await;
        let epoch = race.sale.epoch();
        trap.release();
        let home = std::mem::replace(&mut race.sale.url, rebuilder.url_when_up().await);
        race.claim().await;
        race.assert_in_agreement().await;
        race.sale.url = home;
        let counter = |epoch: &str| epoch.split('-').next().unwrap().parse::<u64>().unwrap();
        assert!(counter(&race.sale.epoch()) <= counter(&epoch) + 1, "{step:?}: the servers rebuild in turn");
        assert!(rebuilder.stop().success());
    }
}

#[tokio::test]
async fn a_flush_at_any_step_of_a_rebuild_causes_another_rebuild() {
    let mut race = Race::start().await;
    for step in STEPS {
        let (rebuilder, trap, home) = race.hold_at(step).await;
        race.sale.redis_cli(&["FLUSHALL"]);
        trap.release();
        race.wake(home).await;
        race.sale.assert_in_agreement("coffee").await;
        // Claims that were only in Redis are lost. None of their units was sold twice.
        let rows = race.sale.psql("select id from orders");
        race.orders.retain(|order| rows.contains(order.as_str()));
        race.assert_in_agreement().await;
        assert!(rebuilder.stop().success());
    }
}

#[tokio::test]
async fn a_worker_stopped_in_its_transaction_blocks_neither_a_rebuild_nor_its_entry() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 10).await;
    let worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    let lock = sale.lock_coupon("coffee").await;
    let order = sale.claim("coffee", "alice").await.body["order"].as_str().unwrap().to_owned();
    sale.until_a_worker_waits().await;
    worker.signal(Signal::SIGSTOP);
    let before = sale.epoch();
    // Redis loses its marker but keeps the entry: a rebuild must wait for the transaction.
    sale.redis_cli(&["DEL", EPOCH]);
    until("a rebuild waits for the open transaction, or the transaction has ended", async || {
        let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
        (sale.psql_number(waiting) > 0 || sale.epoch() != before).then_some(())
    })
    .await;
    lock.release();
    // The worker is suspended until Postgres has ended its transaction.
    until("a new epoch is in force", async || (sale.epoch() != before).then_some(())).await;
    sale.until_ready().await;

    let _second_worker =
        sale.spawn("worker", &[("SECKILL_WORKERS", "1"), ("SECKILL_RECLAIM_AFTER", "200ms")]);
    sale.assert_in_agreement("coffee").await;
    worker.signal(Signal::SIGCONT);
    assert_eq!(sale.claim("coffee", "bob").await.status, 202);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.psql("select id from orders where user_id = 'alice'"), order);
    assert_eq!(sale.psql_number("select count(*) from orders"), 2);
}

#[tokio::test]
async fn an_edit_committed_during_a_rebuild_is_in_force_afterwards() {
    let mut race = Race::start().await;
    for (step, more) in [(STEPS[1], 50), (STEPS[6], -70)] {
        let (rebuilder, trap, home) = race.hold_at(step).await;
        // Sends the API's statement directly, because the API refuses edits while the fence is down.
        race.sale.psql(&format!(
            "update coupons set total = total + {more}, stock = stock + {more}, version = version + 1,
                changed_at = clock_timestamp()"
        ));
        trap.release();
        until("the edit is in force", async || {
            race.sale.psql("select published_version = version from coupons").eq("t").then_some(())
        })
        .await;
        let total = race.sale.psql("select total from coupons");
        assert_eq!(race.sale.redis_cli(&["HGET", COUPON, "total"]), total);
        race.wake(home).await;
        race.assert_in_agreement().await;
        assert!(rebuilder.stop().success());
    }
}

#[tokio::test]
async fn an_edit_whose_publication_is_lost_is_published_again() {
    let mut race = Race::start().await;
    race.sale.server().signal(Signal::SIGSTOP);
    let editor = race.sale.spawn_by_address("serve", &[&race.proxy], &[]);
    race.sale.url = editor.url_when_up().await;
    for (total, flush) in [(1_500, false), (1_400, true), (900, false), (950, true)] {
        race.claim().await;
        race.sale.until_quiet().await;
        let trap = race.proxy.hold(&[EVALSHA, "per_user_limit"]);
        let edit = race.sale.admin(
            reqwest::Method::PATCH,
            "/v1/admin/coupons/coffee",
            Some(json!({"total": total})),
        );
        let disturbing = async {
            trap.until_taken().await;
            if flush {
                race.sale.redis_cli(&["FLUSHALL"]);
            } else {
                race.sale.redis_cli(&["CLIENT", "KILL", "TYPE", "normal"]);
            }
            trap.release();
        };
        let (edited, ()) = tokio::join!(edit, disturbing);
        assert!([200, 503].contains(&edited.status), "{}", edited.text);
        until("the edit is in force", async || {
            (race.sale.redis_cli(&["HGET", COUPON, "total"]) == total.to_string()).then_some(())
        })
        .await;
        race.claim().await;
        race.assert_in_agreement().await;
        assert_eq!(
            race.sale.psql("select total, published_version = version from coupons"),
            format!("{total}|t")
        );
    }
    race.sale.server().signal(Signal::SIGCONT);
}

#[tokio::test]
async fn a_failing_rebuild_backs_off_and_an_ordered_rebuild_ends_the_pause() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    // Postgres refuses every new epoch, and counts the attempts.
    sale.psql(
        "create sequence attempts;
         create function refuse() returns trigger language plpgsql as
             $$ begin perform nextval('attempts'); raise exception 'no new epoch'; end $$;
         create trigger refuse before update on fence for each row execute function refuse()",
    );
    let attempts = || sale.psql_number("select case when is_called then last_value else 0 end from attempts");
    sale.redis_cli_without_program(&["DEL", EPOCH]);
    until("a rebuild has failed", async || (attempts() > 0).then_some(())).await;
    let since = Instant::now();
    let before = attempts();
    until("five more have failed", async || (attempts() >= before + 5).then_some(())).await;
    assert!(since.elapsed() > Duration::from_secs(1), "the attempts follow without a longer pause");
    let log = sale.log();
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(lines("rebuild begins"), 2, "one of the first start, one of this test: {log}");
    assert!(lines("fence down") <= 4, "a line for each change of state: {log}");

    sale.psql("drop trigger refuse on fence");
    let rebuilt =
        sale.admin(reqwest::Method::POST, "/v1/admin/reconcile", Some(json!({"rebuild": true}))).await;
    assert_eq!(rebuilt.status, 200, "{}", rebuilt.text);
    sale.until_ready().await;
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    sale.assert_in_agreement("coffee").await;
}
