//! A master dies before its replica has everything: what was told and is lost depends on what an answer waited for. A
//! lost order says so, and its user claims again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use support::redis_group::{SentinelGroup, redis_cli};
use support::{Answer, Process, until};

use super::Scene;

const NO_WORKER: (&str, &str) = ("SECKILL_WORKERS", "0");

/// A sale on a master with a replica.
pub struct Failover {
    pub group: SentinelGroup,
    pub scene: Scene,
    master: u16,
    pub coupon: String,
}

pub fn order(answer: &Answer) -> String {
    answer.body["order"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
}

/// A UUIDv7 that no order has.
fn id_of_now() -> String {
    let ms = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    format!("{:08x}-{:04x}-7000-8000-000000000000", ms >> 16, ms & 0xffff)
}

fn users(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}-{number}")).collect()
}

impl Failover {
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let group = SentinelGroup::start_lagging().await;
        let scene = Scene::start_with(&group.url(), 1, settings).await;
        let (master, coupon) = (group.master().unwrap(), scene.bought(0).to_owned());
        Self { group, scene, master, coupon }
    }

    pub fn start_worker(&self) -> Process {
        self.scene.sale.spawn("worker", &[("SECKILL_WORKERS", "1")])
    }

    /// All users claim at the same time.
    async fn claim(&self, users: &[String]) -> Vec<Answer> {
        join_all(users.iter().map(|user| self.scene.sale.claim(&self.coupon, user))).await
    }

    /// As `claim`; returns the order that each was told with this status.
    async fn claim_all(&self, users: &[String], status: u16) -> BTreeMap<String, String> {
        let answers = self.claim(users).await;
        let told = users.iter().zip(&answers).map(|(user, answer)| {
            assert_eq!(answer.status, status, "{user}: {}", answer.text);
            (user.clone(), order(answer))
        });
        told.collect()
    }

    /// All users claim until each was told an order.
    async fn claim_until_told(&self, users: &[String]) -> BTreeMap<String, String> {
        let tell = users.iter().map(async |user| {
            let told = until("the claim is answered", async || {
                let answer = self.scene.sale.claim(&self.coupon, user).await;
                (answer.status != 503).then_some(answer)
            });
            (user.clone(), order(&told.await))
        });
        join_all(tell).await.into_iter().collect()
    }

    fn held_by(&self, server: u16) -> usize {
        let key = format!("seckill:{{0}}:claims:{}", self.coupon);
        redis_cli(server, &["HLEN", &key]).unwrap().parse().unwrap()
    }

    /// How many batches have waited for the replica.
    fn waits(&self) -> u64 {
        let stats = redis_cli(self.master, &["INFO", "commandstats"]).unwrap();
        let calls = |line: &str| {
            let (calls, _) = line.strip_prefix("cmdstat_wait:calls=")?.split_once(',')?;
            calls.parse().ok()
        };
        stats.lines().find_map(calls).unwrap_or(0)
    }

    /// The master dies, the replica is promoted, and takes claims.
    pub async fn fail_over(&mut self) {
        self.group.kill_9(self.master);
        until("claims are taken again", async || {
            let answer = self.scene.sale.claim(&self.coupon, "first-after").await;
            (answer.code() != "unavailable").then_some(())
        })
        .await;
        assert_eq!(self.group.master(), Some(self.group.other(self.master)));
    }

    /// Sends a request of the user as soon as every event is recorded.
    async fn ask(&self, method: Method, user: &str, path: &str) -> Answer {
        let token = format!("Bearer {}", self.scene.sale.token(user));
        until("every event is recorded", async || {
            let headers = [("authorization", token.as_str())];
            let answer = self.scene.sale.send(method.clone(), path, &headers, None).await;
            (answer.code() != "not-recorded-yet").then_some(answer)
        })
        .await
    }

    /// Each of these orders is lost, its user is told so wherever the order is shown, and claims again.
    async fn assert_lost(&self, lost: &BTreeMap<String, String>) {
        for (user, order) in lost {
            for path in [format!("/v1/coupons/{}/claims/{order}", self.coupon), format!("/v1/orders/{order}")]
            {
                let answer = self.ask(Method::GET, user, &path).await;
                answer.assert_problem(404, "order-lost");
                let detail = answer.body["detail"].as_str().unwrap();
                assert!(detail.contains("claim again") && answer.body["order"] == *order, "{}", answer.text);
            }
            for act in ["confirm", "cancel"] {
                let path = format!("/v1/orders/{order}/{act}");
                self.ask(Method::POST, user, &path).await.assert_problem(404, "order-lost");
            }
        }
        let names: Vec<String> = lost.keys().cloned().collect();
        let anew = self.claim_until_told(&names).await;
        assert!(anew.iter().all(|(user, order)| *order != lost[user]), "each has a new order");
        for (user, order) in &anew {
            let answer = self.ask(Method::GET, user, &format!("/v1/orders/{order}")).await;
            assert_eq!((answer.status, &answer.body["status"]), (200, &json!("reserved")), "{}", answer.text);
        }
    }

    /// The live orders, when all events are recorded.
    pub async fn recorded(&self) -> BTreeSet<String> {
        self.assert_ledger([]).await;
        self.scene.live_orders()
    }

    /// Waits until all is recorded: every order that was told is live, and both stores agree.
    pub async fn assert_ledger(&self, told: impl IntoIterator<Item = String>) {
        let told: BTreeSet<String> = told.into_iter().collect();
        self.scene.assert_ledger(&told, |_| self.group.master().unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_only_a_dead_master_had_are_told_as_lost_and_made_again() {
    let mut at = Failover::start(&[NO_WORKER]).await;
    let replica = at.group.other(at.master);
    let kept = at.claim_all(&users("kept", 10), 202).await;
    until("the replica has them", async || (at.held_by(replica) == 10).then_some(())).await;
    at.group.lag().hold();
    let lost = at.claim_all(&users("lost", 20), 202).await;
    assert_eq!((at.held_by(at.master), at.held_by(replica)), (30, 10));
    at.fail_over().await;
    assert_eq!(at.held_by(replica), 11, "the kept orders, and the first one after");
    for (user, order) in &kept {
        let path = format!("/v1/coupons/{}/claims/{order}", at.coupon);
        let answer = at.ask(Method::GET, user, &path).await;
        assert_eq!((answer.status, &answer.body["status"]), (200, &json!("accepted")), "{}", answer.text);
    }
    let _worker = at.start_worker();
    at.assert_lost(&lost).await;
    // The order of another user looks like a lost one, and an id of the new epoch like any that is no order.
    let path = format!("/v1/orders/{}", kept["kept-0"]);
    at.ask(Method::GET, "lost-0", &path).await.assert_problem(404, "order-lost");
    until("ids are newer than the epoch, by any clock", async || {
        let answer = at.ask(Method::GET, "lost-0", &format!("/v1/orders/{}", id_of_now())).await;
        (answer.code() == "not-found").then_some(())
    })
    .await;
    at.assert_ledger(kept.into_values()).await;
    assert_eq!(at.held_by(replica), 31);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_claim_is_lost_that_was_answered_after_a_replica_had_it() {
    let mut at = Failover::start(&[NO_WORKER, ("SECKILL_ANSWER_AFTER", "replica")]).await;
    let names = users("kept", 10);
    let kept = at.claim_all(&names, 202).await;
    assert_eq!(at.claim_all(&names, 200).await, kept);
    assert_eq!(at.held_by(at.group.other(at.master)), 10);
    at.group.lag().hold();
    let mut lost = BTreeMap::new();
    for attempt in 0..2 {
        for user in users("late", 2) {
            let answer = at.scene.sale.claim(&at.coupon, &user).await;
            answer.assert_problem(503, "not-replicated-yet");
            assert!(!answer.header("retry-after").is_empty(), "{:?}", answer.headers);
            let path = format!("/v1/coupons/{}/claims/{}", at.coupon, order(&answer));
            assert_eq!(answer.header("location"), path);
            let before = lost.insert(user.clone(), order(&answer));
            assert!(attempt == 0 || before == Some(order(&answer)), "a repeat has the same order");
        }
    }
    assert_eq!(at.held_by(at.master), 12);
    at.fail_over().await;
    // The promoted master has no replica: a claim is answered when it is recorded.
    at.claim(&["alone-0".to_owned()]).await[0].assert_problem(503, "not-replicated-yet");
    let _worker = at.start_worker();
    at.assert_lost(&lost).await;
    at.assert_ledger(kept.into_values()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_claim_is_lost_that_was_answered_after_postgres_had_it() {
    let mut at = Failover::start(&[("SECKILL_ANSWER_AFTER", "postgres")]).await;
    at.group.lag().hold();
    let names = users("kept", 20);
    let kept = at.claim_all(&names, 201).await;
    assert_eq!(at.held_by(at.group.other(at.master)), 0);
    at.fail_over().await;
    assert_eq!(at.claim_all(&names, 200).await, kept);
    at.assert_ledger(kept.into_values()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_claims_of_a_coupon_with_durability_replica_wait_for_one() {
    let at = Failover::start(&[NO_WORKER]).await;
    let sale = &at.scene.sale;
    sale.create_with("careful", json!({"total": 100, "durability": "replica"})).await;
    at.claim_all(&users("quick", 10), 202).await;
    assert_eq!(at.waits(), 0, "no claim has waited");
    assert_eq!(sale.claim("careful", "alice").await.status, 202);
    assert_eq!(at.waits(), 1);
    let (level, what) = at.scene.doctor("redis-answers");
    assert_eq!((level.as_str(), what.as_str()), ("green", "a replica confirms what Redis writes"));
    at.group.lag().hold();
    // The careful claim waits for its whole time, and the others are answered.
    let careful = sale.claim("careful", "bob");
    let others = users("beside", 10);
    let (careful, beside) = tokio::join!(careful, at.claim_all(&others, 202));
    careful.assert_problem(503, "not-replicated-yet");
    assert_eq!(beside.len(), 10);
    at.group.lag().release();
    let repeat = until("the replica has it", async || {
        let repeat = sale.claim("careful", "bob").await;
        (repeat.status != 503).then_some(repeat)
    })
    .await;
    assert_eq!((repeat.status, order(&repeat)), (200, order(&careful)), "{}", repeat.text);
    let coupon = sale.admin(Method::GET, "/v1/admin/coupons/careful", None).await.body;
    assert_eq!((&coupon["durability"], &coupon["stock"]), (&json!("replica"), &json!(98)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_know_a_new_coupon_yet_waits_for_the_replica_too() {
    let at = Failover::start(&[NO_WORKER]).await;
    let sale = &at.scene.sale;
    let other = sale.spawn("serve", &[NO_WORKER]);
    let url = other.url_when_up().await;
    for number in 0..10 {
        let coupon = format!("careful-{number}");
        sale.create_with(&coupon, json!({"total": 10, "durability": "replica"})).await;
        let before = at.waits();
        let claim = sale.client.post(format!("{url}/v1/coupons/{coupon}/claims"));
        let answer = claim.bearer_auth(sale.token("alice")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 202, "{coupon}");
        assert_eq!(at.waits(), before + 1, "{coupon}");
    }
}
