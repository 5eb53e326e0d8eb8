//! One run: the cluster starts, the workload begins, faults are injected by the plan, the workload ends, the stores
//! come to rest, and the checker decides.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::admin_actions;
use crate::checker::{self, Verdict};
use crate::cluster::{Cluster, wait};
use crate::faults::{self, Kind, Mode};
use crate::history::{Class, History, Plan, Recorder};
use crate::inject::FaultInjector;
use crate::report;
use crate::sampler::{self, Store};
use crate::stores::{LastState, Stores};
use crate::trace;
use crate::workload::{ClaimRequest, HOLDER, TEST_COUPONS, TestCoupon, Workload, steady_coupons};

/// Concurrent buyers of the coupons without a waiting list.
const BUYERS: usize = 24;
/// Concurrent clients of the coupons with a waiting list.
const WAITING_CLIENTS: usize = 10;
/// Longest wait for the stores to come to rest after the last request.
const REST_TIMEOUT: Duration = Duration::from_mins(2);
/// Stores that answer and have not changed for this long do not change any more.
const UNCHANGED_FOR: Duration = Duration::from_secs(15);
const REST_POLL: Duration = Duration::from_millis(250);

/// What a run does. The same plan gives the same faults in the same order.
pub struct RunPlan {
    pub seed: u64,
    pub mode: Mode,
    pub length: Duration,
    /// Faults in this order, repeated until the end; if empty, the faults of the seed.
    pub faults: Vec<Kind>,
}

impl RunPlan {
    fn schedule(&self) -> Box<dyn Iterator<Item = (Duration, Kind)> + '_> {
        let scheduled = faults::schedule(self.seed, self.mode);
        if self.faults.is_empty() {
            return Box::new(scheduled);
        }
        let gaps = scheduled.map(|(gap, _)| gap);
        Box::new(gaps.zip(self.faults.iter().copied().cycle()))
    }

    /// Short, so that a run has many reclaims. The hoarder must renew its entries within it even on a slow machine.
    fn reclaim_after(&self) -> Duration {
        Duration::from_secs(if self.faults.contains(&Kind::Hoard) { 4 } else { 1 })
    }
}

/// Runs the plan and prints the result.
pub async fn run(plan: &RunPlan) -> Verdict {
    let folder = folder(plan);
    println!("torture: seed {} ({}), {} s", plan.seed, plan.mode.name(), plan.length.as_secs());
    let cluster = Cluster::start(
        TEST_COUPONS.iter().map(|coupon| coupon.id.to_owned()).collect(),
        plan.reclaim_after(),
        plan.mode,
    )
    .await;
    let stores = cluster.stores.clone();
    let workload = Arc::new(create_coupons(&cluster, &folder).await);
    stores.learn_homes().await;
    let rng = StdRng::seed_from_u64(plan.seed);
    let mut injector = FaultInjector {
        cluster,
        workload: Arc::clone(&workload),
        rng,
        hoard: None,
        interrupted_releases: 0,
        spares: None,
        broken: Vec::new(),
    };

    let mut clients = start_clients(&workload, &stores, plan.seed);
    if plan.mode.has_group() {
        for coupon in steady_coupons() {
            let workload = Arc::clone(&workload);
            clients.spawn(async move { workload.steady_client(coupon).await });
        }
    }
    let began = Instant::now();
    for (done, (gap, kind)) in plan.schedule().enumerate() {
        // Chosen faults are all injected at least once, even on a slow machine.
        if began.elapsed() >= plan.length && done >= plan.faults.len() {
            break;
        }
        tokio::time::sleep(gap).await;
        injector.inject(kind).await;
    }
    workload.end();
    clients.join_all().await;

    injector.record_hoard();
    let mut ended = injector.cluster.ended();
    ended.append(&mut injector.broken);
    let (history, last) = wait_until_at_rest(&workload, &stores).await;
    let checked = match checker::check(&history, &last) {
        Verdict::Valid if !ended.is_empty() => Verdict::Invalid(ended),
        verdict => verdict,
    };
    let trace = trace::judge(&injector.cluster, &history, &folder).await;
    let verdict = checked.clone().and(&trace);
    if verdict != Verdict::Valid {
        injector.cluster.save_logs(&folder);
        if let Ok(last) = &last {
            fs::write(folder.join("last.txt"), format!("{last:#?}")).unwrap();
        }
    }
    report::print(plan, &history, &checked, &trace, &folder);
    verdict
}

fn folder(plan: &RunPlan) -> PathBuf {
    let name = format!("{}-{}", plan.seed, plan.mode.name());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/torture").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Creates the coupons; of each, `HOLDER` claims one unit, which is recorded before the run begins.
async fn create_coupons(cluster: &Cluster, folder: &Path) -> Workload {
    let plans = TEST_COUPONS.iter().map(|coupon| (coupon.id.to_owned(), plan_of(coupon))).collect();
    let recorder = Recorder::new(&folder.join("history.jsonl"), BUYERS + WAITING_CLIENTS, plans);
    let (secret, token) = (cluster.program.jwt_secret(), cluster.program.admin_token());
    let workload = Workload::new(recorder, cluster.urls.clone(), secret, token);
    let url = &workload.urls[0];
    for coupon in &TEST_COUPONS {
        let body = json!({
            "id": coupon.id,
            "total": coupon.total,
            "per_user_limit": coupon.limit,
            "reserve_seconds": coupon.reserve_seconds,
            "waitlist": coupon.has_waitlist,
            "durability": if coupon.is_durable { "postgres" } else { "redis" },
        });
        assert_eq!(workload.admin(url, Method::POST, "/v1/admin/coupons", body).await, Class::Ok);
        let key = (coupon.limit > 1).then_some("first");
        let (id, user) = (coupon.id, HOLDER);
        let request = ClaimRequest { coupon: id, user, key, wait_seconds: Some(10), retries: true };
        let claim = workload.claim(url, &request).await;
        assert_eq!(claim.class, Class::Ok, "{claim:?}");
        if coupon.reserve_seconds.is_some() {
            workload.confirm(url, (id, user, &claim.order.unwrap())).await;
        }
    }
    let first_orders = "select count(*) from orders where status = 'confirmed'";
    let count = TEST_COUPONS.len().to_string();
    let are_there = async || (cluster.stores.psql(first_orders).await.as_deref() == Ok(&count)).then_some(());
    wait(are_there).await.expect("the first orders are recorded");
    workload
}

const fn plan_of(coupon: &TestCoupon) -> Plan {
    Plan {
        total: coupon.total,
        limit: coupon.limit.cast_signed(),
        reserve_seconds: coupon.reserve_seconds,
        is_durable: coupon.is_durable,
        has_waitlist: coupon.has_waitlist,
    }
}

fn start_clients(workload: &Arc<Workload>, stores: &Stores, seed: u64) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for number in 1..=(BUYERS + WAITING_CLIENTS) as u64 {
        let workload = Arc::clone(workload);
        let seed = seed.wrapping_add(number);
        if number <= BUYERS as u64 {
            clients.spawn(async move { workload.client(seed).await });
        } else {
            clients.spawn(async move { workload.waiting_client(seed).await });
        }
    }
    for store in [Store::Redis, Store::Postgres] {
        let (workload, stores) = (Arc::clone(workload), stores.clone());
        clients.spawn(async move { sampler::sample(&workload, &stores, store).await });
    }
    let (admin, stores) = (Arc::clone(workload), stores.clone());
    clients.spawn(async move { admin_actions::run(&admin, &stores, seed).await });
    let workload = Arc::clone(workload);
    clients.spawn(async move { admin_actions::bring_units(&workload, seed).await });
    clients
}

/// Reads both stores until they agree, do not change any more, or the time is over; returns the last reading.
async fn wait_until_at_rest(workload: &Workload, stores: &Stores) -> (History, Result<LastState, String>) {
    let history = workload.recorder.history();
    let deadline = Instant::now() + REST_TIMEOUT;
    let (mut before, mut changed) = (None, Instant::now());
    loop {
        let last = stores.read_all().await;
        if last.as_ref().ok() != before.as_ref() || last.is_err() {
            changed = Instant::now();
        }
        let is_at_rest = last.as_ref().is_ok_and(|last| checker::is_at_rest(&history, last));
        if is_at_rest || changed.elapsed() >= UNCHANGED_FOR || Instant::now() >= deadline {
            return (history, last);
        }
        before = last.ok();
        tokio::time::sleep(REST_POLL).await;
    }
}
