//! A sale on Redis servers that fail over: coupons in several partitions, clients that claim at an even pace, and the
//! ledger of what they were told.

mod figures;
mod losses;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use support::external_store::ExternalStore;
use support::redis_group::redis_cli;
use support::{Sale, until};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

const SECRET: &str = "a secret of at least thirty-two bytes";
/// Pause between two claims of one coupon: far from what the program can take, so that a lower rate means refusals.
const PACE: Duration = Duration::from_millis(25);

/// A sale on external stores.
pub struct Scene {
    pub sale: Arc<Sale>,
    /// Two coupons of each partition: clients buy the first one, the second one stays untouched.
    coupons: BTreeMap<i64, [String; 2]>,
    _postgres: Option<ExternalStore>,
}

impl Scene {
    /// Starts the program with this number of partitions.
    pub async fn start(redis: &str, partitions: usize) -> Self {
        Self::start_with(redis, partitions, &[]).await
    }

    /// As `start`, with more settings.
    pub async fn start_with(redis: &str, partitions: usize, more: &[(&str, &str)]) -> Self {
        let postgres = ExternalStore::postgres(&["max_connections=200"]).await;
        let scene = Self::start_on(redis, &postgres.url("postgres"), partitions, more).await;
        Self { _postgres: Some(postgres), ..scene }
    }

    /// As `start_with`, on this Postgres.
    pub async fn start_on(redis: &str, postgres: &str, partitions: usize, more: &[(&str, &str)]) -> Self {
        let settings = [
            ("REDIS_URL", redis),
            ("DATABASE_URL", postgres),
            ("SECKILL_JWT_SECRET", SECRET),
            ("SECKILL_ADMIN_TOKEN", SECRET),
            ("SECKILL_PARTITIONS", &partitions.to_string()),
        ];
        let sale = Sale::start_with(&[&settings[..], more].concat()).await;
        // The harness reads the secrets from the data directory.
        std::fs::create_dir_all(sale.data_dir()).unwrap();
        for file in ["jwt-secret", "admin-token"] {
            std::fs::write(sale.data_dir().join(file), SECRET).unwrap();
        }
        let mut found: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for number in 0.. {
            let coupon = format!("coupon-{number}");
            let fields = json!({"total": 100_000, "durability": "redis", "reserve_seconds": 3_600});
            sale.create_with(&coupon, fields).await;
            let partition = sale.psql_number(&format!("select partition from coupons where id = '{coupon}'"));
            found.entry(partition).or_default().push(coupon);
            if found.len() == partitions && found.values().all(|coupons| coupons.len() > 1) {
                break;
            }
            assert!(number < 100, "new coupons go to all partitions: {found:?}");
        }
        let first_two = |coupons: Vec<String>| [coupons[0].clone(), coupons[1].clone()];
        let coupons = found.into_iter().map(|(partition, coupons)| (partition, first_two(coupons))).collect();
        Self { sale: Arc::new(sale), coupons, _postgres: None }
    }

    pub fn partitions(&self) -> Vec<i64> {
        self.coupons.keys().copied().collect()
    }

    /// The coupon of the partition that clients buy.
    pub fn bought(&self, partition: i64) -> &str {
        &self.coupons[&partition][0]
    }

    /// The coupon of the partition that no client buys.
    pub fn untouched(&self, partition: i64) -> &str {
        &self.coupons[&partition][1]
    }

    /// Starts clients that claim the first coupon of each partition.
    pub fn sell(&self) -> Load {
        let (answers, is_over): (Arc<Mutex<Vec<Answered>>>, Arc<AtomicBool>) = Default::default();
        let buyer = |(&partition, [coupon, _]): (&i64, &[String; 2])| {
            let (sale, coupon) = (self.sale.clone(), coupon.clone());
            let (answers, is_over) = (answers.clone(), is_over.clone());
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(PACE);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                for number in 0.. {
                    ticks.tick().await;
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let answer = sale.claim(&coupon, &format!("user-{number}")).await;
                    let order = [200, 201, 202].contains(&answer.status).then(|| {
                        let order = answer.body["order"].as_str();
                        order.unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
                    });
                    assert!(order.is_some() || answer.status == 503, "{}", answer.text);
                    answers.lock().unwrap().push(Answered { partition, at: Instant::now(), order });
                }
            })
        };
        let buyers = self.coupons.iter().map(buyer).collect();
        Load { answers, is_over, buyers }
    }

    /// The level and the text of one finding of `seckill doctor`.
    pub fn doctor(&self, check: &str) -> (String, String) {
        let output = self.sale.command().args(["doctor", "--json"]).output().unwrap();
        let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = findings.as_array().unwrap().iter().find(|finding| finding["check"] == check);
        let text =
            |field: &str| found.unwrap_or_else(|| panic!("{findings}"))[field].as_str().unwrap().to_owned();
        (text("level"), text("what"))
    }

    pub fn epochs(&self) -> BTreeMap<i64, String> {
        let rows = self.sale.psql("select partition, epoch from fence order by partition");
        let rows = rows.lines().map(|row| row.split_once('|').unwrap());
        rows.map(|(partition, epoch)| (partition.parse().unwrap(), epoch.to_owned())).collect()
    }

    pub fn live_orders(&self) -> BTreeSet<String> {
        let rows = self.sale.psql("select id from orders where status in ('reserved', 'confirmed')");
        rows.lines().map(str::to_owned).collect()
    }

    pub async fn confirm(&self, order: &str) {
        let answer = self.sale.admin(Method::POST, &format!("/v1/orders/{order}/confirm"), None).await;
        assert_eq!((answer.status, &answer.body["status"]), (200, &json!("confirmed")), "{}", answer.text);
    }

    /// As `assert_ledger`, for a Redis at one address.
    pub async fn assert_agreement(&self, told: &BTreeSet<String>) {
        for partition in self.partitions() {
            self.sale.assert_in_agreement(self.bought(partition)).await;
        }
        self.assert_live(told);
    }

    fn assert_live(&self, told: &BTreeSet<String>) {
        let live = self.live_orders();
        let lost: Vec<&String> = told.difference(&live).collect();
        assert!(lost.is_empty(), "{} of {} orders are lost: {lost:?}", lost.len(), told.len());
    }

    /// Waits until every event is recorded; then every order that was told is live, and both stores have the same units.
    /// `master_of` returns the port of a partition's master.
    pub async fn assert_ledger(&self, told: &BTreeSet<String>, master_of: impl Fn(i64) -> u16) {
        for partition in self.partitions() {
            let path = format!("/v1/admin/stream?partition={partition}");
            until("the partition is quiet", async || {
                let stream = self.sale.admin(Method::GET, &path, None).await.body;
                let is_quiet = stream["backlog"] == 0 && stream["fence"]["state"] == "up";
                (is_quiet && self.sale.psql_number("select count(*) from outbox") == 0).then_some(())
            })
            .await;
        }
        self.assert_live(told);
        for (partition, [coupon, _]) in &self.coupons {
            let row = self.sale.psql(&format!(
                "select total - stock, (select count(*) from orders o where o.coupon_id = c.id
                     and o.status in ('reserved', 'confirmed')) from coupons c where id = '{coupon}'"
            ));
            let port = master_of(*partition);
            let key = |kind: &str| format!("seckill:{{{partition}}}:{kind}:{coupon}");
            let stock: i64 = redis_cli(port, &["HGET", &key("coupon"), "stock"]).unwrap().parse().unwrap();
            let held: i64 = redis_cli(port, &["HLEN", &key("claims")]).unwrap().parse().unwrap();
            assert_eq!((100_000 - stock, format!("{held}|{held}")), (held, row), "{coupon}: units sold");
        }
    }
}

struct Answered {
    partition: i64,
    at: Instant,
    /// `None` if the claim was refused with 503.
    order: Option<String>,
}

/// Clients that claim.
pub struct Load {
    answers: Arc<Mutex<Vec<Answered>>>,
    is_over: Arc<AtomicBool>,
    buyers: Vec<JoinHandle<()>>,
}

impl Load {
    fn count(&self, partition: i64, is_accepted: bool, from: Instant, to: Instant) -> usize {
        let answers = self.answers.lock().unwrap();
        let of_partition = answers.iter().filter(|answered| answered.partition == partition);
        let of_kind = of_partition.filter(|answered| answered.order.is_some() == is_accepted);
        of_kind.filter(|answered| from <= answered.at && answered.at < to).count()
    }

    pub fn refused(&self, partition: i64, from: Instant) -> usize {
        self.count(partition, false, from, Instant::now())
    }

    /// Accepted claims a second.
    pub fn rate(&self, partition: i64, from: Instant, to: Instant) -> f64 {
        let count = u32::try_from(self.count(partition, true, from, to)).unwrap();
        f64::from(count) / (to - from).as_secs_f64()
    }

    pub async fn until_refused(&self, partition: i64, from: Instant) {
        let refused = async || (self.refused(partition, from) > 0).then_some(());
        until("claims are refused", refused).await;
    }

    /// Waits until so many claims of the partition were accepted since then.
    pub async fn until_accepted(&self, partition: i64, claims: usize, from: Instant) {
        until("claims are accepted", async || {
            assert!(self.buyers.iter().all(|buyer| !buyer.is_finished()), "a client has failed");
            (self.count(partition, true, from, Instant::now()) >= claims).then_some(())
        })
        .await;
    }

    /// The orders that clients were told until now.
    pub fn told(&self) -> BTreeSet<String> {
        self.answers.lock().unwrap().iter().filter_map(|answered| answered.order.clone()).collect()
    }

    /// Ends the clients; returns the orders that they were told.
    pub async fn stop(mut self) -> BTreeSet<String> {
        self.is_over.store(true, Ordering::SeqCst);
        for buyer in self.buyers.drain(..) {
            buyer.await.unwrap();
        }
        self.told()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.buyers.iter().for_each(JoinHandle::abort);
    }
}
