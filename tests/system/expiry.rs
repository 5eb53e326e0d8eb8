//! Orders whose time to pay is over: each order expires once and its unit returns once, also if a worker dies between
//! two steps. No process leads, and a repeated claim does not wait for the sweeper.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::metrics::count;
use support::proxy::{EVALSHA, Proxy, Trap, TrapAction};
use support::{Process, Sale, until};

const CLAIMS: &str = "seckill:{0}:claims:coffee";
const NO_WORKERS: (&str, &str) = ("SECKILL_WORKERS", "0");
const ONE_WORKER: (&str, &str) = ("SECKILL_WORKERS", "1");
/// The bound parameter of the statement that ends orders, with its length.
const EXPIRE: &str = "\0\0\0\u{7}expired";
const ORDER: &str = "<order>";
const HOUR: u32 = 3_600;

/// Creates the coupon coffee with this time to pay.
async fn create(sale: &Sale, total: usize, reserve_seconds: u32) {
    sale.create_with("coffee", json!({"total": total, "reserve_seconds": reserve_seconds})).await;
}

/// Claims, and waits until a worker of the test has recorded the reserved order.
async fn reserve(sale: &Sale, user: &str) -> String {
    let answer = sale.claim_with("coffee", user, &[("prefer", "wait=10")]).await;
    assert_eq!((answer.status, &answer.body["status"]), (201, &"reserved".into()), "{}", answer.text);
    answer.body["order"].as_str().unwrap().to_owned()
}

/// Ends the time to pay of every reserved order.
fn let_time_pass(sale: &Sale) {
    sale.psql("update orders set reserved_until = clock_timestamp() where status = 'reserved'");
}

fn status_of(sale: &Sale, order: &str) -> String {
    sale.psql(&format!("select status from orders where id = '{order}'"))
}

/// Claims until the claim is accepted; returns the order.
async fn until_claimed(sale: &Sale, user: &str) -> String {
    until("the unit can be claimed", async || {
        let answer = sale.claim("coffee", user).await;
        assert!([202, 409].contains(&answer.status), "{}", answer.text);
        (answer.status == 202).then(|| answer.body["order"].as_str().unwrap().to_owned())
    })
    .await
}

#[tokio::test]
async fn an_order_that_is_not_confirmed_in_time_expires_and_another_user_gets_its_unit() {
    let sale = Sale::start().await;
    create(&sale, 2, 1).await;
    let (alice, bob) = (reserve(&sale, "alice").await, reserve(&sale, "bob").await);
    sale.psql("update orders set status = 'confirmed', confirmed_at = now() where user_id = 'bob'");
    let carol = until_claimed(&sale, "carol").await;
    assert_eq!((status_of(&sale, &alice), status_of(&sale, &bob)), ("expired".into(), "confirmed".into()));
    let ended = "select ended_at >= reserved_until from orders where user_id = 'alice'";
    assert_eq!(sale.psql(ended), "t");
    until("carol's order expires, too", async || (status_of(&sale, &carol) == "expired").then_some(())).await;
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 1);
    assert_eq!(count(&sale, "seckill_orders_expired_total").await, 2);
    assert_eq!(count(&sale, "seckill_units_returned_total").await, 2);
}

#[tokio::test]
async fn processes_that_sweep_together_expire_each_order_once() {
    const USERS: usize = 300;
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    create(&sale, USERS, HOUR).await;
    let users: Vec<String> = (0..USERS).map(|number| format!("user-{number}")).collect();
    let claims = users.iter().map(|user| sale.claim("coffee", user));
    for answer in futures_util::future::join_all(claims).await {
        assert_eq!(answer.status, 202, "{}", answer.text);
    }
    let recorder = sale.spawn("worker", &[ONE_WORKER]);
    until("all orders are recorded", async || {
        (sale.psql_number("select count(*) from orders") == 300).then_some(())
    })
    .await;
    assert!(recorder.stop().success());
    let_time_pass(&sale);

    let mut sweepers = Vec::new();
    for _ in 0..2 {
        sweepers.push(sale.spawn_by_address("serve", &[], &[ONE_WORKER]));
    }
    let mut expired = 0;
    until("all orders are expired", async || {
        (sale.psql_number("select count(*) from orders where status = 'expired'") == 300).then_some(())
    })
    .await;
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 300);
    for sweeper in &sweepers {
        let url = sweeper.url_when_up().await;
        let metrics = support::client().get(format!("{url}/metrics")).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("seckill_orders_expired_total "));
        expired += line.unwrap().parse::<usize>().unwrap();
    }
    assert_eq!(expired, USERS, "orders that the sweepers have expired");
}

/// A sale of one unit; a test starts its workers.
struct Scene {
    sale: Sale,
    redis: Proxy,
    postgres: Proxy,
    expired: i64,
}

/// The moment at which a worker dies while it expires an order and returns the unit: whether the trapped request goes
/// to Redis, whether the proxy holds the request or cuts its reply, and texts that identify the request.
type Death = (bool, TrapAction, &'static [&'static str]);
const BEFORE_COMMIT: Death = (false, TrapAction::Hold, &["COMMIT", EXPIRE]);
const AFTER_COMMIT: Death = (false, TrapAction::CutReply, &["COMMIT", EXPIRE]);
const BEFORE_RELEASE: Death = (true, TrapAction::Hold, &[EVALSHA, ORDER]);
const AFTER_RELEASE: Death = (true, TrapAction::CutReply, &[EVALSHA, ORDER]);
const BEFORE_DELETION: Death = (false, TrapAction::Hold, &["delete from outbox"]);
const AFTER_DELETION: Death = (false, TrapAction::CutReply, &["delete from outbox"]);

impl Scene {
    async fn start() -> Self {
        let sale = Sale::start_with(&[NO_WORKERS]).await;
        create(&sale, 1, HOUR).await;
        let redis = Proxy::before(&sale.redis_socket());
        let postgres = Proxy::before(&sale.postgres_socket());
        Self { sale, redis, postgres, expired: 0 }
    }

    fn worker(&self, proxies: &[&Proxy]) -> Process {
        self.sale.spawn_by_address("worker", proxies, &[ONE_WORKER, ("SECKILL_RECLAIM_AFTER", "200ms")])
    }

    /// Lets an order expire, and kills the worker that expires it at the given moment; another worker continues. If
    /// `is_late`, the held request of the dead worker arrives at the end, else never.
    async fn survive(&mut self, (in_redis, action, needles): Death, is_late: bool) {
        self.expired += 1;
        let user = format!("user-{}", self.expired);
        let recorder = self.worker(&[]);
        let order = reserve(&self.sale, &user).await;
        self.sale.until_quiet().await;
        assert!(recorder.stop().success());
        let_time_pass(&self.sale);

        let needles: Vec<&str> = needles.iter().map(|n| if *n == ORDER { &order } else { *n }).collect();
        let store = if in_redis { &self.redis } else { &self.postgres };
        let trap = store.set_trap(action, &needles);
        let worker = self.worker(&[&self.redis, &self.postgres]);
        match action {
            TrapAction::Hold => trap.until_taken().await,
            _ => trap.until_done().await,
        }
        worker.kill_9();
        let late: Option<Trap> = if is_late {
            Some(trap)
        } else {
            trap.discard();
            None
        };
        let second_worker = self.worker(&[]);
        self.assert_unit_is_back().await;
        let next = reserve(&self.sale, "next").await;
        if let Some(trap) = late {
            trap.release();
        }
        self.sale.assert_in_agreement("coffee").await;
        assert_eq!(self.sale.redis_cli(&["HGET", CLAIMS, "next"]), next);
        assert_eq!(status_of(&self.sale, &next), "reserved");
        self.sale.claim("coffee", "late").await.assert_problem(409, "sold-out");
        let_time_pass(&self.sale);
        self.expired += 1;
        until("the next order expires, too", async || {
            (status_of(&self.sale, &next) == "expired").then_some(())
        })
        .await;
        self.assert_unit_is_back().await;
        assert!(second_worker.stop().success());
    }

    async fn assert_unit_is_back(&self) {
        until("the order is expired", async || {
            let expired = self.sale.psql_number("select count(*) from orders where status = 'expired'");
            (expired == self.expired).then_some(())
        })
        .await;
        self.sale.assert_in_agreement("coffee").await;
        assert_eq!(self.sale.redis_stock("coffee"), 1, "units in stock");
    }
}

#[tokio::test]
async fn a_worker_killed_around_the_commit_of_an_expiry_returns_the_unit_once() {
    let mut scene = Scene::start().await;
    scene.survive(BEFORE_COMMIT, false).await;
    scene.survive(BEFORE_COMMIT, true).await;
    scene.survive(AFTER_COMMIT, false).await;
}

#[tokio::test]
async fn a_worker_killed_around_the_release_of_an_expired_unit_returns_it_once() {
    let mut scene = Scene::start().await;
    scene.survive(BEFORE_RELEASE, false).await;
    scene.survive(BEFORE_RELEASE, true).await;
    scene.survive(AFTER_RELEASE, false).await;
}

#[tokio::test]
async fn a_worker_killed_around_the_deletion_of_expired_outbox_rows_returns_the_unit_once() {
    let mut scene = Scene::start().await;
    scene.survive(BEFORE_DELETION, false).await;
    scene.survive(BEFORE_DELETION, true).await;
    scene.survive(AFTER_DELETION, false).await;
}

#[tokio::test]
async fn a_paused_sweeper_expires_nothing_that_was_confirmed_and_holds_up_no_other_process() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    create(&sale, 1, HOUR).await;
    let recorder = sale.spawn("worker", &[ONE_WORKER]);
    let order = reserve(&sale, "alice").await;
    sale.until_quiet().await;
    assert!(recorder.stop().success());
    let_time_pass(&sale);
    let postgres = Proxy::before(&sale.postgres_socket());
    // The sweeper has locked the order and not ended it yet.
    let trap = postgres.hold(&[EXPIRE]);
    let paused = sale.spawn_by_address("worker", &[&postgres], &[ONE_WORKER]);
    trap.until_taken().await;
    paused.signal(Signal::SIGSTOP);
    // Postgres ends the idle transaction of the paused sweeper, which releases the lock.
    sale.psql(&format!(
        "set statement_timeout = 0; update orders set reserved_until = now() + interval '1 hour' where id = '{order}';
         update orders set status = 'confirmed' where id = '{order}'"
    ));
    let worker = sale.spawn("worker", &[ONE_WORKER]);
    trap.release();
    paused.signal(Signal::SIGCONT);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(status_of(&sale, &order), "confirmed");
    assert!(worker.stop().success());
}

#[tokio::test]
async fn a_repeat_after_the_time_to_pay_gets_a_new_order_before_any_sweep() {
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    create(&sale, 2, HOUR).await;
    let recorder = sale.spawn("worker", &[ONE_WORKER]);
    let (first, confirmed) = (reserve(&sale, "alice").await, reserve(&sale, "bob").await);
    sale.until_quiet().await;
    assert!(recorder.stop().success());
    assert_eq!(sale.claim("coffee", "alice").await.body["order"], first.as_str(), "in time");
    sale.psql(&format!("update orders set status = 'confirmed' where id = '{confirmed}'"));
    let_time_pass(&sale);

    let list = sale.get_as(&sale.token("alice"), "/v1/coupons/coffee/claims").await;
    assert_eq!(list.body["items"], json!([]), "{}", list.text);
    let again = sale.claim("coffee", "alice").await;
    assert_eq!(again.status, 202, "{}", again.text);
    let second = again.body["order"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    assert_eq!(status_of(&sale, &first), "expired");
    assert_eq!(sale.claim("coffee", "alice").await.body["order"], second.as_str());
    assert_eq!(sale.claim("coffee", "bob").await.body["order"], confirmed.as_str());
    assert_eq!(sale.claim("coffee", "carol").await.code(), "sold-out");

    let _worker = sale.spawn("worker", &[ONE_WORKER]);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(status_of(&sale, &second), "reserved");
}

#[tokio::test]
async fn many_repeats_of_overdue_orders_share_transactions_and_each_gets_a_new_order() {
    const USERS: usize = 100;
    let sale = Sale::start_with(&[NO_WORKERS]).await;
    create(&sale, USERS, HOUR).await;
    let users: Vec<String> = (0..USERS).map(|number| format!("user-{number}")).collect();
    let claim_all = async || {
        let answers =
            futures_util::future::join_all(users.iter().map(|user| sale.claim("coffee", user))).await;
        for answer in &answers {
            assert_eq!(answer.status, 202, "{}", answer.text);
        }
    };
    claim_all().await;
    let recorder = sale.spawn("worker", &[ONE_WORKER]);
    until("all orders are recorded", async || {
        (sale.psql_number("select count(*) from orders") == 100).then_some(())
    })
    .await;
    sale.until_quiet().await;
    assert!(recorder.stop().success());
    let_time_pass(&sale);
    claim_all().await;
    let transactions = "select count(distinct xmin::text) from orders where status = 'expired'";
    let transactions = sale.psql_number(transactions);
    assert!(transactions < 100, "{transactions} transactions for 100 repeats");
    let _worker = sale.spawn("worker", &[ONE_WORKER]);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.psql_number("select count(*) from orders where status = 'reserved'"), 100);
}

#[tokio::test]
async fn no_user_can_claim_a_unit_that_was_withdrawn_from_the_total() {
    let sale = Sale::start().await;
    sale.create("coffee", 2).await;
    for user in ["alice", "bob"] {
        let answer = sale.claim_with("coffee", user, &[("prefer", "wait=10")]).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
    sale.psql(
        "with ended as (update orders set status = 'cancelled' where user_id = 'alice' returning *),
         lowered as (update coupons set total = total - 1, version = version + 1, changed_at = clock_timestamp())
         insert into outbox (order_id, coupon_id, user_id, slot, after_version)
         select id, coupon_id, user_id, slot, 2 from ended",
    );
    until("alice's order is known to have ended", async || {
        let answer = sale.claim("coffee", "alice").await;
        // Until Redis has the lowered total, her claim holds the unit.
        assert!([503, 409].contains(&answer.status), "{}", answer.text);
        (answer.status == 409).then(|| assert_eq!(answer.code(), "sold-out"))
    })
    .await;
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 0);
}
