//! A unit is returned to stock exactly once, even if the worker that returns it dies at any point. The sale has one
//! unit: so the next claims show a missing return and a double return.

use nix::sys::signal::Signal;

use support::proxy::{ACKNOWLEDGEMENT, EVALSHA, Proxy, Trap, TrapAction};
use support::{Process, REFUSE_SOME, Sale, signal, until};

const CLAIMS: &str = "seckill:{0}:claims:coffee";
const REJECT: &str = "Ends an order event as a rejected order";
const ORDER: &str = "<order>";

/// The moment at which a worker dies while it ends an order and returns the unit.
struct Death {
    /// The store to which the worker was about to send a request, or had just sent one.
    store: Store,
    act: TrapAction,
    needles: &'static [&'static str],
    /// Rows in the outbox and units held at that moment.
    leaves: (i64, i64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Redis,
    Postgres,
}

/// What the proxy does with a held request after its sender has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Lost,
    /// The store receives the request at the end of the test.
    Late,
}

/// What happens to Redis before another worker processes the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RedisFault {
    None,
    Flush,
    Restart,
}

const BEFORE_COMMIT: Death =
    Death { store: Store::Postgres, act: TrapAction::Hold, needles: &["COMMIT", REJECT], leaves: (0, 1) };
const AFTER_COMMIT: Death =
    Death { store: Store::Postgres, act: TrapAction::CutReply, needles: &["COMMIT", REJECT], leaves: (1, 1) };
const BEFORE_RELEASE: Death =
    Death { store: Store::Redis, act: TrapAction::Hold, needles: &[EVALSHA, ORDER], leaves: (1, 1) };
const AFTER_RELEASE: Death =
    Death { store: Store::Redis, act: TrapAction::CutReply, needles: &[EVALSHA, ORDER], leaves: (1, 0) };
const BEFORE_DELETION: Death =
    Death { store: Store::Postgres, act: TrapAction::Hold, needles: &["delete from outbox"], leaves: (1, 0) };
const AFTER_DELETION: Death = Death {
    store: Store::Postgres,
    act: TrapAction::CutReply,
    needles: &["delete from outbox"],
    leaves: (0, 0),
};
const BEFORE_ACKNOWLEDGEMENT: Death =
    Death { store: Store::Redis, act: TrapAction::Hold, needles: &ACKNOWLEDGEMENT, leaves: (0, 0) };
const AFTER_ACKNOWLEDGEMENT: Death =
    Death { store: Store::Redis, act: TrapAction::CutReply, needles: &ACKNOWLEDGEMENT, leaves: (0, 0) };

/// A sale of one unit; a test starts its workers.
struct Scene {
    sale: Sale,
    redis: Proxy,
    postgres: Proxy,
    doomed: i64,
    served: i64,
}

impl Scene {
    async fn start() -> Self {
        let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
        sale.create("coffee", 1).await;
        sale.psql(REFUSE_SOME);
        let redis = Proxy::before(&sale.redis_socket());
        let postgres = Proxy::before(&sale.postgres_socket());
        Self { sale, redis, postgres, doomed: 0, served: 0 }
    }

    fn worker(&self, proxies: &[&Proxy]) -> Process {
        let environment = [("SECKILL_WORKERS", "1"), ("SECKILL_RECLAIM_AFTER", "200ms")];
        self.sale.spawn_by_address("worker", proxies, &environment)
    }

    /// Number of rows in the outbox, and of units held. Units first: a unit that is no longer held has had its row.
    fn outbox_and_held(&self) -> (i64, i64) {
        let held = self.sale.redis_cli(&["HLEN", CLAIMS]).parse().unwrap();
        (self.sale.psql_number("select count(*) from outbox"), held)
    }

    /// A worker rejects one claim and dies at the given moment; another worker continues.
    async fn survive(&mut self, death: &Death, held: Held, fault: RedisFault) {
        self.doomed += 1;
        let user = format!("doomed-{}", self.doomed);
        let answer = self.sale.claim("coffee", &user).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        let order = answer.body["order"].as_str().unwrap();
        let needles: Vec<&str> = death.needles.iter().map(|n| if *n == ORDER { order } else { n }).collect();
        let store = if death.store == Store::Redis { &self.redis } else { &self.postgres };
        let trap = store.set_trap(death.act, &needles);
        let worker = self.worker(&[&self.redis, &self.postgres]);
        match death.act {
            TrapAction::Hold => trap.until_taken().await,
            _ => trap.until_done().await,
        }
        if death.leaves == (0, 0) {
            // The worker returns the unit concurrently with its other work.
            until("the unit is back", async || (self.outbox_and_held() == (0, 0)).then_some(())).await;
        }
        worker.kill_9();
        if death.act == TrapAction::Hold {
            // Checked only for a held request: after a lost answer the worker may have done more before the kill.
            assert_eq!(self.outbox_and_held(), death.leaves, "rows in the outbox, units held");
        }
        let late = match held {
            Held::Lost => {
                trap.discard();
                None
            }
            Held::Late => Some(trap),
        };
        self.inject(fault).await;

        let second_worker = self.worker(&[]);
        self.assert_unit_is_back().await;
        self.sell_once_more(&user, late).await;
        assert!(second_worker.stop().success());
    }

    async fn inject(&self, fault: RedisFault) {
        let before = self.sale.epoch();
        match fault {
            RedisFault::None => return,
            RedisFault::Flush => drop(self.sale.redis_cli(&["FLUSHALL"])),
            RedisFault::Restart => signal(self.sale.redis_pid(), Signal::SIGKILL),
        }
        until("a new epoch is in force", async || (self.sale.epoch() != before).then_some(())).await;
        self.sale.until_ready().await;
    }

    async fn assert_unit_is_back(&self) {
        self.sale.assert_in_agreement("coffee").await;
        assert_eq!(self.sale.redis_stock("coffee"), 1, "units in stock");
        let ended = self.sale.psql(
            "select count(*) filter (where status = 'rejected'), count(*) filter (where status <> 'rejected'),
                (select count(*) from dead_letters), (select count(distinct order_id) from dead_letters)
             from orders",
        );
        assert_eq!(ended, format!("{0}|{1}|{0}|{0}", self.doomed, self.served), "rejected, others, letters");
    }

    /// The same user claims the unit again. No other user gets it, and a late request does not take it away. Then the
    /// order is cancelled and the unit is returned.
    async fn sell_once_more(&mut self, user: &str, late: Option<Trap>) {
        self.served += 1;
        let order = self.buy(user).await;
        if let Some(trap) = late {
            trap.release();
        }
        self.sale.assert_in_agreement("coffee").await;
        assert_eq!(self.sale.redis_cli(&["HGET", CLAIMS, user]), order);
        self.sale.claim("coffee", "late").await.assert_problem(409, "sold-out");
        self.sale.cancel_order(&order);
        self.assert_unit_is_back().await;
    }

    /// Claims and waits for the order.
    async fn buy(&self, user: &str) -> String {
        let answer = self.sale.claim_with("coffee", user, &[("prefer", "wait=10")]).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.body["order"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_worker_killed_around_the_commit_of_a_rejection_returns_its_unit_once() {
    let mut scene = Scene::start().await;
    scene.survive(&BEFORE_COMMIT, Held::Lost, RedisFault::None).await;
    scene.survive(&BEFORE_COMMIT, Held::Late, RedisFault::None).await;
    scene.survive(&AFTER_COMMIT, Held::Lost, RedisFault::None).await;
}

#[tokio::test]
async fn a_worker_killed_around_the_release_of_a_unit_returns_it_once() {
    let mut scene = Scene::start().await;
    scene.survive(&BEFORE_RELEASE, Held::Lost, RedisFault::None).await;
    scene.survive(&BEFORE_RELEASE, Held::Late, RedisFault::None).await;
    scene.survive(&AFTER_RELEASE, Held::Lost, RedisFault::None).await;
}

#[tokio::test]
async fn a_worker_killed_around_the_deletion_of_the_outbox_row_returns_the_unit_once() {
    let mut scene = Scene::start().await;
    scene.survive(&BEFORE_DELETION, Held::Lost, RedisFault::None).await;
    scene.survive(&BEFORE_DELETION, Held::Late, RedisFault::None).await;
    scene.survive(&AFTER_DELETION, Held::Lost, RedisFault::None).await;
}

#[tokio::test]
async fn a_worker_killed_around_the_acknowledgement_of_a_dead_letter_returns_the_unit_once() {
    let mut scene = Scene::start().await;
    scene.survive(&BEFORE_ACKNOWLEDGEMENT, Held::Lost, RedisFault::None).await;
    scene.survive(&BEFORE_ACKNOWLEDGEMENT, Held::Late, RedisFault::None).await;
    scene.survive(&AFTER_ACKNOWLEDGEMENT, Held::Lost, RedisFault::None).await;
}

#[tokio::test]
async fn a_unit_is_returned_once_when_redis_is_flushed_or_restarted_before_its_release() {
    let mut scene = Scene::start().await;
    for fault in [RedisFault::Flush, RedisFault::Restart] {
        scene.survive(&BEFORE_RELEASE, Held::Lost, fault).await;
        scene.survive(&AFTER_RELEASE, Held::Lost, fault).await;
    }
}

#[tokio::test]
async fn the_unit_of_a_cancelled_order_is_returned_once_although_redis_was_rebuilt_before_its_release() {
    let mut scene = Scene::start().await;
    for fault in [RedisFault::Flush, RedisFault::Restart] {
        let seller = scene.worker(&[]);
        scene.served += 1;
        let user = format!("served-{}", scene.served);
        let order = scene.buy(&user).await;
        scene.sale.until_quiet().await;
        seller.kill_9();
        scene.sale.cancel_order(&order);
        scene.inject(fault).await;
        // The rebuild counts the unit as returned; the outbox row still waits for a worker.
        assert_eq!(scene.outbox_and_held(), (1, 0), "rows in the outbox, units held");
        assert_eq!(scene.sale.redis_stock("coffee"), 1);
        let second_worker = scene.worker(&[]);
        scene.assert_unit_is_back().await;
        scene.sell_once_more(&user, None).await;
        assert!(second_worker.stop().success());
    }
}
