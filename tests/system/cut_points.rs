//! Repeats the life of one order, from its claim to the return of its unit: confirmed and revoked, cancelled, or expired.
//! Each run is interrupted at another point of the traffic to the stores, and no order or unit is lost or doubled.

use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use support::proxy::{Meter, MeterFault, Proxy};
use support::{Process, Sale, until};

/// How many of the cut points of a life the quick tests try.
const SAMPLE: usize = 6;
/// How long before its time to pay ends an order of tea is observed.
const BEFORE_EXPIRY: Duration = Duration::from_millis(60);

/// How long a client waits before it tries again.
const PAUSE: Duration = Duration::from_millis(20);
const TRIES: usize = 3_000;

/// What becomes of the order of a run, from where the run can be interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// From the claim on.
    ConfirmedAndRevoked,
    /// From the request to cancel on.
    Cancelled,
    /// From the end of the time to pay on.
    Expired,
}

impl Life {
    const ALL: [Self; 3] = [Self::ConfirmedAndRevoked, Self::Cancelled, Self::Expired];

    /// Orders of tea are reserved for a second, orders of coffee for longer than any test.
    const fn coupon(self) -> &'static str {
        if matches!(self, Self::Expired) { "tea" } else { "coffee" }
    }

    /// How many requests and replies it has at least.
    const fn least_chunks(self) -> usize {
        if matches!(self, Self::ConfirmedAndRevoked) { 40 } else { 10 }
    }

    /// At how many of its chunks it is interrupted. Its last step is among these; later the program only polls its stores.
    const fn most_points(self) -> usize {
        if matches!(self, Self::ConfirmedAndRevoked) { 170 } else { 50 }
    }
}

/// A sale of one unit of each of two coupons, in which the program reaches both stores through proxies.
struct Scene {
    sale: Sale,
    proxies: [Proxy; 2],
    meter: Meter,
    program: Process,
    /// The lives so far.
    lives: Vec<Life>,
}

impl Scene {
    async fn start() -> Self {
        let mut sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
        sale.create_with("coffee", json!({"total": 1, "reserve_seconds": 3_600})).await;
        sale.create_with("tea", json!({"total": 1, "reserve_seconds": 1})).await;
        let meter = Meter::default();
        let proxies = [sale.redis_socket(), sale.postgres_socket()].map(|s| Proxy::metered(&s, &meter));
        // Suspends the server that runs the stores: so only the program behind the proxies can repair anything.
        sale.signal_server(Signal::SIGSTOP);
        let program = spawn(&sale, &proxies);
        sale.url = program.url_when_up().await;
        Self { sale, proxies, meter, program, lives: Vec::new() }
    }

    /// Starts the program again if it was killed.
    async fn restart_if_killed(&mut self) {
        if !self.program.is_running() {
            self.program = spawn(&self.sale, &self.proxies);
            self.sale.url = self.program.url_when_up().await;
        }
    }

    /// Claims like a persistent client: repeats the claim until the answer has a recorded order.
    async fn claim(&mut self, coupon: &str, user: &str) -> String {
        for _ in 0..TRIES {
            self.restart_if_killed().await;
            let answer = self.sale.claim_with(coupon, user, &[("prefer", "wait=10")]).await;
            assert!([0, 200, 201, 202, 503].contains(&answer.status), "{}", answer.text);
            if answer.body["status"] == "reserved" {
                return answer.body["order"].as_str().unwrap().to_owned();
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("the order of {user} is not recorded");
    }

    /// Sends a request about an order like a persistent client: repeats it until it is answered 200.
    async fn ask(&mut self, path: String, body: Value, status: &str) {
        for _ in 0..TRIES {
            self.restart_if_killed().await;
            let answer = self.sale.admin(Method::POST, &path, Some(body.clone())).await;
            assert!([0, 200, 503].contains(&answer.status), "{path}: {}", answer.text);
            if answer.status == 200 {
                assert_eq!(answer.body["status"], status, "{path}");
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("{path} is not done");
    }

    /// Waits until the coupon's unit is back in Redis.
    async fn until_returned(&mut self, coupon: &str) {
        let claims = format!("seckill:{{0}}:claims:{coupon}");
        let hlen = [&b"HLEN"[..], claims.as_bytes()];
        for _ in 0..TRIES {
            self.restart_if_killed().await;
            let is_back = self.sale.redis_raw(&hlen) == ":0\r\n";
            if is_back && self.sale.psql_number("select count(*) from outbox") == 0 {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("the unit of {coupon} does not come back");
    }

    /// Runs the life of an order, and interrupts it by the fault.
    async fn live(&mut self, life: Life, fault: Option<(usize, MeterFault)>) {
        let (coupon, user) = (life.coupon(), format!("user-{}", self.lives.len()));
        match life {
            Life::ConfirmedAndRevoked => {
                self.meter.start(fault);
                let order = self.claim(coupon, &user).await;
                self.ask(format!("/v1/orders/{order}/confirm"), json!({}), "confirmed").await;
                let revocation = json!({"reason": "returned", "return_unit": true});
                self.ask(format!("/v1/admin/orders/{order}/revoke"), revocation, "cancelled").await;
            }
            Life::Cancelled => {
                let order = self.claim(coupon, &user).await;
                self.meter.start(fault);
                self.ask(format!("/v1/orders/{order}/cancel"), json!({}), "cancelled").await;
            }
            Life::Expired => {
                let order = self.claim(coupon, &user).await;
                let left_ms = self.sale.psql_number(&format!(
                    "select (1000 * extract(epoch from reserved_until - clock_timestamp()))::bigint
                     from orders where id = '{order}'"
                ));
                let left = Duration::from_millis(left_ms.try_into().unwrap_or_default());
                tokio::time::sleep(left.saturating_sub(BEFORE_EXPIRY)).await;
                self.meter.start(fault);
            }
        }
        self.until_returned(coupon).await;
    }

    /// Runs the life of an order, with or without a fault; returns how many chunks passed, and which chunk the fault
    /// hit.
    async fn run(&mut self, life: Life, fault: Option<(usize, MeterFault)>) -> (usize, Option<String>) {
        self.lives.push(life);
        self.live(life, fault).await;
        if fault.is_some() {
            // After the release there is always another chunk: the program probes its stores.
            until("the chunk comes", async || self.meter.hit()).await;
            if let Some((_, MeterFault::Kill(pid))) = fault
                && pid == self.program.pid()
            {
                self.program.wait();
            }
            self.restart_if_killed().await;
        }
        let passed = self.meter.stop();
        self.sale.assert_in_agreement(life.coupon()).await;
        let rows = self.sale.psql(
            "select count(distinct user_id),
                    count(*) filter (where status = 'cancelled' and confirmed_at is not null and reason = 'returned'),
                    count(*) filter (where status = 'cancelled' and confirmed_at is null and reason is null),
                    count(*) filter (where status = 'expired' and confirmed_at is null),
                    count(*), (select count(*) from dead_letters),
                    (select count(*) from audit_log where action = 'revoke')
             from orders",
        );
        let [revoked, cancelled, expired] =
            Life::ALL.map(|life| self.lives.iter().filter(|lived| **lived == life).count());
        let all = self.lives.len();
        assert_eq!(
            rows,
            format!("{all}|{revoked}|{cancelled}|{expired}|{all}|0|{revoked}"),
            "users, revoked, cancelled, expired and all orders, dead letters, revocations on record"
        );
        assert!(!self.program.log().contains("panicked"), "the program panics");
        (passed, self.meter.hit())
    }

    /// Interrupts each life at every n-th of its chunks.
    async fn fault_at_each(&mut self, pace: impl Fn(usize) -> usize, aim: impl Fn(i32) -> MeterFault) {
        for life in Life::ALL {
            self.fault_at_each_of(life, &pace, &aim).await;
        }
    }

    /// Injects a fault at every n-th chunk of a run; `pace` computes n from the number of chunks.
    async fn fault_at_each_of(
        &mut self,
        life: Life,
        pace: impl Fn(usize) -> usize,
        aim: impl Fn(i32) -> MeterFault,
    ) {
        let (first, _) = self.run(life, None).await;
        let (second, _) = self.run(life, None).await;
        let chunks = first.max(second);
        assert!(chunks >= life.least_chunks(), "{chunks} chunks are too few for an order that is {life:?}");
        let chunks = chunks.min(life.most_points());
        let points: Vec<usize> = (1..=chunks).step_by(pace(chunks)).collect();
        let mut done = 0;
        for &point in &points {
            let fault = aim(self.program.pid());
            let (_, hit) = self.run(life, Some((point, fault))).await;
            let hit = hit.expect("waited for");
            println!("{life:?}, chunk {point} of {chunks}, {fault:?}: {hit}");
            done += 1;
        }
        println!("{life:?}: {done} of {} cut points of {chunks} chunks", points.len());
    }
}

fn spawn(sale: &Sale, proxies: &[Proxy; 2]) -> Process {
    let [redis, postgres] = proxies;
    let environment = [("SECKILL_WORKERS", "1"), ("SECKILL_RECLAIM_AFTER", "1s")];
    sale.spawn_by_address("serve", &[redis, postgres], &environment)
}

fn sample(chunks: usize) -> usize {
    chunks.div_ceil(SAMPLE)
}

#[tokio::test]
async fn a_connection_cut_at_some_points_loses_nothing_and_doubles_nothing() {
    Scene::start().await.fault_at_each(sample, |_| MeterFault::Cut).await;
}

#[tokio::test]
async fn a_program_killed_at_some_points_loses_nothing_and_doubles_nothing() {
    Scene::start().await.fault_at_each(sample, MeterFault::Kill).await;
}

#[tokio::test]
#[ignore = "long"]
async fn a_connection_cut_at_every_point_loses_nothing_and_doubles_nothing() {
    Scene::start().await.fault_at_each(|_| 1, |_| MeterFault::Cut).await;
}

#[tokio::test]
#[ignore = "long"]
async fn a_program_killed_at_every_point_loses_nothing_and_doubles_nothing() {
    Scene::start().await.fault_at_each(|_| 1, MeterFault::Kill).await;
}
