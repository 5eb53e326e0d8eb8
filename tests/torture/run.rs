//! One run: the stage is set, the market opens, the director strikes by the plan, the market closes, everything
//! comes to rest, and the checker decides.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::checker::{self, Verdict};
use crate::faults::{Kind, Mode, schedule};
use crate::hands::{self, Store};
use crate::history::{Class, History, Recorder};
use crate::load::{KEEPER, Market, WARES};
use crate::report;
use crate::stage::{Stage, wait};
use crate::stores::{LastState, Stores};
use crate::strike::Director;
use crate::trace;

/// Buyers at once.
const CLIENTS: usize = 24;
/// How long everything is given to come to rest after the last request.
const REST_PATIENCE: Duration = Duration::from_mins(2);
/// Stores that both answer and have not moved for this long will not do so any more.
const STILL: Duration = Duration::from_secs(15);
const REST_POLL: Duration = Duration::from_millis(250);

/// What decides a run.
pub struct Script {
    pub seed: u64,
    pub mode: Mode,
    pub length: Duration,
    /// Faults in this order, again from the first when all are done; those of the seed where it is empty.
    pub faults: Vec<Kind>,
}

impl Script {
    fn plan(&self) -> Box<dyn Iterator<Item = (Duration, Kind)> + '_> {
        let scheduled = schedule(self.seed, self.mode);
        if self.faults.is_empty() {
            return Box::new(scheduled);
        }
        let gaps = scheduled.map(|(gap, _)| gap);
        Box::new(gaps.zip(self.faults.iter().copied().cycle()))
    }

    /// Short, so that a run sees many reclaims; but whoever hoards has to be faster than that on any machine.
    fn reclaim_after(&self) -> Duration {
        Duration::from_secs(if self.faults.contains(&Kind::Hoard) { 4 } else { 1 })
    }
}

/// Runs the script and prints what came of it.
pub async fn run(script: &Script) -> Verdict {
    let folder = folder(script);
    println!("torture: seed {} ({}), {} s", script.seed, script.mode.name(), script.length.as_secs());
    let stage =
        Stage::set(WARES.iter().map(|ware| ware.id.to_owned()).collect(), script.reclaim_after()).await;
    let stores = stage.stores.clone();
    let market = Arc::new(open_market(&stage, &folder).await);
    let rng = StdRng::seed_from_u64(script.seed);
    let mut director = Director { stage, market: Arc::clone(&market), rng, hoard: None, broken_releases: 0 };

    let people = let_people_in(&market, &stores, script.seed);
    let opened = Instant::now();
    for (done, (gap, kind)) in script.plan().enumerate() {
        // A plan of its own is done at least once, however slow the machine.
        if opened.elapsed() >= script.length && done >= script.faults.len() {
            break;
        }
        tokio::time::sleep(gap).await;
        director.strike(kind).await;
    }
    market.close();
    people.join_all().await;

    director.note_hoard();
    let ended = director.stage.ended();
    let (history, last) = come_to_rest(&market, &stores).await;
    let checked = match checker::check(&history, &last) {
        Verdict::Valid if !ended.is_empty() => Verdict::Invalid(ended),
        verdict => verdict,
    };
    let trace = trace::judge(&director.stage, &history, &folder).await;
    let verdict = checked.clone().and(&trace);
    if verdict != Verdict::Valid {
        director.stage.save_logs(&folder);
        if let Ok(last) = &last {
            fs::write(folder.join("last.txt"), format!("{last:#?}")).unwrap();
        }
    }
    report::print(script, &history, &checked, &trace, &folder);
    verdict
}

fn folder(script: &Script) -> PathBuf {
    let name = format!("{}-{}", script.seed, script.mode.name());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/torture").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Coupons, and of each a first unit for the one who keeps it, recorded.
async fn open_market(stage: &Stage, folder: &Path) -> Market {
    let totals: BTreeMap<String, i64> = WARES.iter().map(|ware| (ware.id.to_owned(), ware.total)).collect();
    let recorder = Recorder::new(&folder.join("history.jsonl"), CLIENTS, totals);
    let secret = fs::read_to_string(stage.program.data_dir().join("jwt-secret")).unwrap();
    let (secret, token) = (secret.trim_end().to_owned(), stage.program.admin_token());
    let market = Market::new(recorder, stage.urls.clone(), secret, token);
    let url = &market.urls[0];
    for ware in &WARES {
        let body = json!({"id": ware.id, "total": ware.total});
        assert_eq!(market.admin(url, Method::POST, "/v1/admin/coupons", body).await, Class::Ok);
        let claim = market.claim(url, ware.id, KEEPER, None, true).await;
        assert_eq!(claim.class, Class::Ok, "{claim:?}");
    }
    let first_orders = "select count(*) from orders where status = 'confirmed'";
    let count = WARES.len().to_string();
    let are_there = async || (stage.stores.psql(first_orders).await.as_deref() == Ok(&count)).then_some(());
    wait(are_there).await.expect("the first orders are recorded");
    market
}

fn let_people_in(market: &Arc<Market>, stores: &Stores, seed: u64) -> JoinSet<()> {
    let mut people = JoinSet::new();
    for number in 1..=CLIENTS as u64 {
        let market = Arc::clone(market);
        people.spawn(async move { market.client(seed.wrapping_add(number)).await });
    }
    for store in [Store::Redis, Store::Postgres] {
        let (market, stores) = (Arc::clone(market), stores.clone());
        people.spawn(async move { hands::sample(&market, &stores, store).await });
    }
    let (market, stores) = (Arc::clone(market), stores.clone());
    people.spawn(async move { hands::work(&market, &stores, seed).await });
    people
}

/// Reads both stores until they agree, or nothing moves, or patience is over: then the last reading stands.
async fn come_to_rest(market: &Market, stores: &Stores) -> (History, Result<LastState, String>) {
    let history = market.recorder.history();
    let deadline = Instant::now() + REST_PATIENCE;
    let (mut before, mut moved) = (None, Instant::now());
    loop {
        let last = stores.read_all().await;
        if last.as_ref().ok() != before.as_ref() || last.is_err() {
            moved = Instant::now();
        }
        let is_at_rest = last.as_ref().is_ok_and(|last| checker::is_at_rest(&history, last));
        if is_at_rest || moved.elapsed() >= STILL || Instant::now() >= deadline {
            return (history, last);
        }
        before = last.ok();
        tokio::time::sleep(REST_POLL).await;
    }
}
