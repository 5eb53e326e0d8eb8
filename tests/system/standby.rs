//! Postgres fails over to a standby: a real one, which receives the WAL of a primary that is killed under load. One that
//! has every commit needs no operator; one that may lack commits waits for one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::sys::signal::Signal;
use reqwest::Method;
use seckill::domain::{Epoch, Partition};
use seckill::postgres::Postgres;
use seckill::postgres::fence::position_to_record;
use serde_json::{Value, json};
use support::external_store::{ExternalStore, folder};
use support::postgres_group::{PostgresGroup, Replication, SETTINGS};
use support::proxy::Proxy;
use support::redis_group::SentinelGroup;
use support::until;

use crate::counterexamples::DURABLE;
use crate::failover::{Load, Scene};

const ORDERED: &str = "reconcile --rebuild";

/// A sale on a Postgres with a standby, and a Redis of its own.
struct Standby {
    // Dropped before its stores.
    scene: Scene,
    redis: Option<ExternalStore>,
    postgres: PostgresGroup,
}

impl Standby {
    async fn start(replication: Replication) -> Self {
        let postgres = PostgresGroup::start(replication).await;
        postgres.grant();
        let redis = ExternalStore::redis(&DURABLE, folder());
        let scene = Scene::start_on(&redis.url("redis"), &postgres.url(), 1, &[]).await;
        Self { scene, redis: Some(redis), postgres }
    }

    /// Kills the primary while claims go on, and promotes the standby.
    async fn fail_over(&mut self) {
        self.postgres.kill_primary();
        drop(self.postgres.fail_over().await);
    }

    /// Kills Redis, which starts again with all its data.
    async fn restart_redis(&mut self) {
        let dir = self.redis.take().unwrap().kill_9();
        let redis = ExternalStore::redis(&DURABLE, dir);
        until("Redis answers", async || redis.redis_cli(&["PING"]).ok()).await;
        self.redis = Some(redis);
    }

    /// Stops the standby while users buy `units`, then promotes it without what they bought.
    async fn lose(&mut self, units: usize) -> BTreeSet<String> {
        self.postgres.until_standby_has_all().await;
        let stopped = self.postgres.standby.take().unwrap().stop();
        let sold = buy(&self.scene, units).await;
        self.postgres.kill_primary();
        self.postgres.standby = Some(ExternalStore::postgres_at(stopped, &SETTINGS).await);
        drop(self.postgres.fail_over().await);
        sold
    }
}

/// Users who have bought nothing yet buy one unit each; their orders are recorded.
async fn buy(scene: &Scene, units: usize) -> BTreeSet<String> {
    let mut orders = BTreeSet::new();
    for user in 0..units {
        let claim = scene.sale.claim(scene.bought(0), &format!("buyer-{user}")).await;
        assert_eq!(claim.status, 202, "{}", claim.text);
        orders.insert(claim.body["order"].as_str().unwrap().to_owned());
    }
    scene.sale.until_quiet().await;
    orders
}

async fn until_it_waits(scene: &Scene) -> String {
    until("claims wait for the operator", async || {
        let ready = scene.sale.get("/readyz").await;
        let detail = ready.body["detail"].as_str().unwrap_or_default().to_owned();
        (ready.status == 503 && detail.contains(ORDERED)).then_some(detail)
    })
    .await
}

/// The operator orders a rebuild; returns its report.
async fn rebuild(scene: &Scene) -> Value {
    let order = Some(json!({"rebuild": true}));
    let rebuilt = scene.sale.admin(Method::POST, "/v1/admin/reconcile", order).await;
    assert_eq!(rebuilt.status, 200, "{}", rebuilt.text);
    scene.sale.until_ready().await;
    rebuilt.body
}

async fn until_recorded(scene: &Scene, more: usize) {
    let before = scene.live_orders().len();
    until("orders are recorded", async || (scene.live_orders().len() >= before + more).then_some(())).await;
}

/// Confirms every order as soon as its client is told; returns the orders whose confirm was answered with 200.
fn confirm_all(
    scene: &Scene,
    load: &Arc<Load>,
) -> (Arc<AtomicBool>, tokio::task::JoinHandle<BTreeSet<String>>) {
    let is_over = Arc::new(AtomicBool::new(false));
    let (sale, load, stop) = (scene.sale.clone(), load.clone(), is_over.clone());
    let confirming = tokio::spawn(async move {
        let mut confirmed = BTreeSet::new();
        while !stop.load(Ordering::SeqCst) {
            let waiting: Vec<String> = load.told().difference(&confirmed).cloned().collect();
            for order in waiting.iter().rev().take(10) {
                let path = format!("/v1/orders/{order}/confirm");
                if sale.admin(Method::POST, &path, None).await.status == 200 {
                    confirmed.insert(order.clone());
                }
            }
            tokio::task::yield_now().await;
        }
        confirmed
    });
    (is_over, confirming)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_synchronous_standby_needs_no_operator_and_has_every_order_and_confirm() {
    let mut standby = Standby::start(Replication::Synchronous).await;
    for check in ["postgres-standby", "postgres-promotion"] {
        assert_eq!(standby.scene.doctor(check).0, "green", "{check}");
    }
    let (load, started) = (Arc::new(standby.scene.sell()), Instant::now());
    let (is_over, confirming) = confirm_all(&standby.scene, &load);
    load.until_accepted(0, 80, started).await;
    let epochs = standby.scene.epochs();
    standby.fail_over().await;
    until("the epoch is a new one", async || (standby.scene.epochs() != epochs).then_some(())).await;
    load.until_accepted(0, 40, Instant::now()).await;
    until_recorded(&standby.scene, 40).await;
    is_over.store(true, Ordering::SeqCst);
    let confirmed = confirming.await.unwrap();
    let told = Arc::try_unwrap(load).ok().unwrap().stop().await;
    standby.scene.assert_agreement(&told).await;
    let rows = standby.scene.sale.psql("select id from orders where status = 'confirmed'");
    let rows: BTreeSet<&str> = rows.lines().collect();
    let lost: Vec<&String> = confirmed.iter().filter(|order| !rows.contains(order.as_str())).collect();
    assert!(!confirmed.is_empty() && lost.is_empty(), "{lost:?} of {} confirms", confirmed.len());
    assert_eq!(standby.scene.sale.psql("select count(*) from audit_log where action = 'rebuild'"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_that_lacks_commits_waits_for_the_operator_and_is_repaired() {
    let mut standby = Standby::start(Replication::Asynchronous).await;
    assert_eq!(standby.scene.doctor("postgres-standby").0, "yellow");
    let lost = standby.lose(5).await;
    let reason = until_it_waits(&standby.scene).await;
    assert!(reason.contains("has the commits up to"), "{reason}");
    standby.scene.sale.claim(standby.scene.bought(0), "late").await.assert_problem(503, "unavailable");
    let rebuilt = rebuild(&standby.scene).await;
    assert_eq!(rebuilt["resent"], json!(5), "{rebuilt:#}");
    standby.scene.assert_agreement(&lost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_standby_that_has_every_commit_needs_no_operator() {
    let mut standby = Standby::start(Replication::Asynchronous).await;
    let told = buy(&standby.scene, 5).await;
    standby.postgres.until_standby_has_all().await;
    let epochs = standby.scene.epochs();
    standby.fail_over().await;
    until("the epoch is a new one", async || (standby.scene.epochs() != epochs).then_some(())).await;
    standby.scene.sale.until_ready().await;
    standby.scene.assert_agreement(&told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_is_recorded_only_after_the_synchronous_standby_has_it() {
    let standby = Standby::start(Replication::Synchronous).await;
    let primary = &standby.postgres.primary;
    standby.postgres.standby.as_ref().unwrap().signal(Signal::SIGSTOP);
    // Durable on the primary alone, as a commit that still waits for the standby.
    primary.psql("set synchronous_commit = local; create table ahead ()").unwrap();
    let ahead = primary.psql("select seckill.durable_lsn()").unwrap();
    let epoch = Epoch::new(Partition::DEFAULT, standby.scene.epochs()[&0].clone());
    let postgres = Postgres::new(&standby.postgres.url(), "seckill").unwrap();
    let reading = tokio::spawn(async move { position_to_record(&postgres.pool, &epoch).await });
    let waiting =
        "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and query like '%emit_message%'";
    until("the position waits", async || (primary.psql(waiting).unwrap() != "0").then_some(())).await;
    assert!(!reading.is_finished());
    standby.postgres.standby.as_ref().unwrap().signal(Signal::SIGCONT);
    let position = reading.await.unwrap().unwrap().unwrap();
    assert!(position >= ahead, "{position} {ahead}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_recorded_after_the_standby_was_compared_is_compared_too() {
    let mut postgres = PostgresGroup::start(Replication::Asynchronous).await;
    postgres.grant();
    let redis = ExternalStore::redis(&DURABLE, folder());
    let proxy = Proxy::before(&redis.dir.path().join("redis.sock"));
    let scene = Scene::start_on(&proxy.url, &postgres.url(), 1, &[]).await;
    buy(&scene, 3).await;
    postgres.until_standby_has_all().await;
    // The script that sets the marker `building`.
    let beginning = proxy.hold(&["'MKSTREAM'"]);
    postgres.kill_primary();
    let old = postgres.fail_over().await;
    beginning.until_taken().await;
    // As a process does whose commit the old primary had answered.
    redis.redis_cli(&["SET", "seckill:{0}:postgres_lsn", "FFFFFFFF/FFFFFFFF"]).unwrap();
    beginning.release();
    let reason = until_it_waits(&scene).await;
    assert!(reason.contains("FFFFFFFF/FFFFFFFF"), "{reason}");
    assert_eq!(postgres.primary.psql("select postgres_lost from seckill.fence").unwrap(), "t");
    drop((scene, old));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_died_on_the_promoted_standby_hides_no_lost_commit() {
    let mut standby = Standby::start(Replication::Asynchronous).await;
    let epoch = "update seckill.fence set epoch = '2-beef', postgres_identity = seckill.postgres_identity()";
    standby.postgres.until_standby_has_all().await;
    let stopped = standby.postgres.standby.take().unwrap().stop();
    let lost = buy(&standby.scene, 3).await;
    Arc::get_mut(&mut standby.scene.sale).unwrap().kill_9();
    standby.postgres.kill_primary();
    standby.postgres.standby = Some(ExternalStore::postgres_at(stopped, &SETTINGS).await);
    drop(standby.postgres.fail_over().await);
    standby.postgres.primary.psql(&format!("set search_path = seckill; {epoch}")).unwrap();
    // The position does not show the loss any more.
    standby.postgres.primary.psql("create table ahead as select generate_series(1, 50000)").unwrap();
    Arc::get_mut(&mut standby.scene.sale).unwrap().start_server_unready().await;
    until_it_waits(&standby.scene).await;
    let rebuilt = rebuild(&standby.scene).await;
    assert_eq!(rebuilt["resent"], json!(3), "{rebuilt:#}");
    standby.scene.assert_agreement(&lost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_read_the_history_claims_wait_and_the_reason_names_the_grant() {
    let postgres = PostgresGroup::start(Replication::Synchronous).await;
    let redis = ExternalStore::redis(&DURABLE, folder());
    let scene = Scene::start_on(&redis.url("redis"), &postgres.url(), 1, &[]).await;
    let mut standby = Standby { scene, redis: Some(redis), postgres };
    assert_eq!(standby.scene.doctor("postgres-promotion").0, "yellow");
    let told = buy(&standby.scene, 3).await;
    standby.fail_over().await;
    let reason = until_it_waits(&standby.scene).await;
    assert!(reason.contains("grant execute on function pg_read_file(text) to \"shop\""), "{reason}");
    rebuild(&standby.scene).await;
    standby.scene.assert_agreement(&told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_failovers_while_the_program_is_stopped_need_no_operator_unless_one_lost_commits() {
    for loses in [false, true] {
        let mut standby = Standby::start(Replication::Synchronous).await;
        let told = buy(&standby.scene, 3).await;
        let sale = Arc::get_mut(&mut standby.scene.sale).unwrap();
        sale.kill_9();
        standby.fail_over().await;
        standby.postgres.add_standby(Replication::Asynchronous).await;
        if loses {
            // A position beyond the first timeline's end, as if a commit there had had an effect.
            let position = standby.postgres.primary.psql("select seckill.durable_lsn()").unwrap();
            let redis = standby.redis.as_ref().unwrap();
            redis.redis_cli(&["SET", "seckill:{0}:postgres_lsn", &position]).unwrap();
        }
        standby.fail_over().await;
        let sale = Arc::get_mut(&mut standby.scene.sale).unwrap();
        sale.start_server_unready().await;
        if loses {
            until_it_waits(&standby.scene).await;
        } else {
            standby.scene.sale.until_ready().await;
            standby.scene.assert_agreement(&told).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_stores_fail_over_at_once_without_an_operator_and_nothing_is_sold_twice() {
    let mut redis = SentinelGroup::start().await;
    let mut postgres = PostgresGroup::start(Replication::Synchronous).await;
    postgres.grant();
    let scene = Scene::start_on(&redis.url(), &postgres.url(), 1, &[]).await;
    until("the row knows the standby", async || {
        (scene.sale.psql("select agreed_with_standby from fence") == "t").then_some(())
    })
    .await;
    let master = redis.master().unwrap();
    let (load, started) = (scene.sell(), Instant::now());
    load.until_accepted(0, 80, started).await;
    until_recorded(&scene, 1).await;
    let (epochs, told) = (scene.epochs(), load.told());
    let mut kept = scene.live_orders();
    kept.retain(|order| told.contains(order));
    assert!(!kept.is_empty(), "orders are recorded");
    redis.kill_9(master);
    postgres.kill_primary();
    let old = postgres.fail_over().await;
    load.until_refused(0, started).await;
    load.until_accepted(0, 40, Instant::now()).await;
    load.stop().await;
    assert_ne!(scene.epochs(), epochs);
    scene.assert_ledger(&kept, |_| redis.master().unwrap()).await;
    assert_eq!(scene.sale.psql("select count(*) from audit_log where action = 'rebuild'"), "0");
    drop((scene, old));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_standby_beside_another_redis_waits_for_the_operator() {
    let mut standby = Standby::start(Replication::Asynchronous).await;
    buy(&standby.scene, 3).await;
    standby.postgres.until_standby_has_all().await;
    Arc::get_mut(&mut standby.scene.sale).unwrap().kill_9();
    standby.fail_over().await;
    standby.restart_redis().await;
    Arc::get_mut(&mut standby.scene.sale).unwrap().start_server_unready().await;
    let reason = until_it_waits(&standby.scene).await;
    assert!(reason.contains("Redis may not know its last commits"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_primary_that_wakes_up_is_not_written_to() {
    let mut standby = Standby::start(Replication::Asynchronous).await;
    let mut told = buy(&standby.scene, 5).await;
    standby.postgres.until_standby_has_all().await;
    let epochs = standby.scene.epochs();
    standby.postgres.primary.signal(Signal::SIGSTOP);
    let old = standby.postgres.fail_over().await;
    let (load, started) = (standby.scene.sell(), Instant::now());
    until("the epoch is a new one", async || {
        let epoch = standby.postgres.primary.psql("select epoch from seckill.fence").unwrap();
        (epoch != epochs[&0]).then_some(())
    })
    .await;
    load.until_accepted(0, 40, started).await;
    // The program's connections to it are still open.
    old.signal(Signal::SIGCONT);
    until_recorded(&standby.scene, 40).await;
    // What was sent to it before may be there too: no client was told because of it, and the new primary has it as well.
    let rows = || {
        let rows = old.psql("select id from seckill.orders").unwrap();
        rows.lines().map(str::to_owned).collect::<BTreeSet<String>>()
    };
    let at_waking = rows();
    until_recorded(&standby.scene, 80).await;
    told.extend(load.stop().await);
    standby.scene.assert_agreement(&told).await;
    assert_eq!(rows(), at_waking, "the old primary gets no more orders");
    let lost: Vec<String> = at_waking.difference(&standby.scene.live_orders()).cloned().collect();
    assert!(lost.is_empty(), "{lost:?}");
}
