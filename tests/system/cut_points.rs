//! Repeats one claim, its order and the return of its unit. Each run is interrupted at another point of the traffic to
//! the stores, and no order or unit is lost or doubled.

use std::time::Duration;

use nix::sys::signal::Signal;

use support::proxy::{Meter, MeterFault, Proxy};
use support::{Process, Sale, until};

const CLAIMS: &str = "seckill:{0}:claims:coffee";
/// How many of the cut points the quick tests try.
const SAMPLE: usize = 10;

/// How long a client waits before it tries again.
const PAUSE: Duration = Duration::from_millis(20);
const TRIES: usize = 3_000;

/// A sale of a single unit in which the program reaches both stores through proxies.
struct Scene {
    sale: Sale,
    proxies: [Proxy; 2],
    meter: Meter,
    program: Process,
    runs: usize,
}

impl Scene {
    async fn start() -> Self {
        let mut sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
        sale.create("coffee", 1).await;
        let meter = Meter::default();
        let proxies = [sale.redis_socket(), sale.postgres_socket()].map(|s| Proxy::metered(&s, &meter));
        // Suspends the server that runs the stores: so only the program behind the proxies can repair anything.
        sale.signal_server(Signal::SIGSTOP);
        let program = spawn(&sale, &proxies);
        sale.url = program.url_when_up().await;
        Self { sale, proxies, meter, program, runs: 0 }
    }

    /// Starts the program again if it was killed.
    async fn restart_if_killed(&mut self) {
        if !self.program.is_running() {
            self.program = spawn(&self.sale, &self.proxies);
            self.sale.url = self.program.url_when_up().await;
        }
    }

    /// Claims like a persistent client: repeats the claim until the answer has a recorded order.
    async fn claim(&mut self, user: &str) -> String {
        for _ in 0..TRIES {
            self.restart_if_killed().await;
            let answer = self.sale.claim_with("coffee", user, &[("prefer", "wait=10")]).await;
            assert!([0, 200, 201, 202, 503].contains(&answer.status), "{}", answer.text);
            if answer.body["status"] == "confirmed" {
                return answer.body["order"].as_str().unwrap().to_owned();
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("the order of {user} is not recorded");
    }

    /// Ends the order as the program does, and waits until its unit is back.
    async fn cancel(&mut self, order: &str) {
        self.sale.cancel_order(order);
        let hlen = [&b"HLEN"[..], CLAIMS.as_bytes()];
        for _ in 0..TRIES {
            self.restart_if_killed().await;
            let is_back = self.sale.redis_raw(&hlen) == ":0\r\n";
            if is_back && self.sale.psql_number("select count(*) from outbox") == 0 {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("the unit of {order} does not come back");
    }

    /// Runs one claim, order and release, with or without a fault; returns how many chunks passed, and which chunk the
    /// fault hit.
    async fn run(&mut self, fault: Option<(usize, MeterFault)>) -> (usize, Option<String>) {
        self.runs += 1;
        let user = format!("user-{}", self.runs);
        self.meter.start(fault);
        let order = self.claim(&user).await;
        self.cancel(&order).await;
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
        self.sale.assert_in_agreement("coffee").await;
        let orders = self.sale.psql(
            "select count(*), count(*) filter (where status = 'cancelled'), count(distinct user_id),
                    (select count(*) from dead_letters)
             from orders",
        );
        assert_eq!(
            orders,
            format!("{0}|{0}|{0}|0", self.runs),
            "orders, ended, of different users, dead letters"
        );
        assert!(!self.program.log().contains("panicked"), "the program panics");
        (passed, self.meter.hit())
    }

    /// Injects a fault at every n-th chunk of a run; `pace` computes n from the number of chunks.
    async fn fault_at_each(&mut self, pace: impl Fn(usize) -> usize, aim: impl Fn(i32) -> MeterFault) {
        let (first, _) = self.run(None).await;
        let (second, _) = self.run(None).await;
        let chunks = first.max(second);
        assert!(chunks >= 30, "{chunks} chunks are too few for a claim, its order and its release");
        let points: Vec<usize> = (1..=chunks).step_by(pace(chunks)).collect();
        let mut done = 0;
        for &point in &points {
            let fault = aim(self.program.pid());
            let (_, hit) = self.run(Some((point, fault))).await;
            let hit = hit.expect("waited for");
            println!("chunk {point} of {chunks}, {fault:?}: {hit}");
            done += 1;
        }
        println!("{done} of {} cut points of {chunks} chunks", points.len());
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
