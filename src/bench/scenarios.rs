//! The scenarios that measure the program itself. Each starts with empty stores.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::fixture::{Fixture, Server, wait_until};
use super::load::{self, Answers, Load};
use super::measurements::Measurements;
use super::parameters::Parameters;
use super::preload::preload_claims;
use super::rate::{Rate, to_f64};
use super::redis_cpu::redis_cpu;
use super::requests::{Requests, Users};
use crate::redis::health::calls;

pub const COUPON: &str = "coffee";
/// Enough connections that the program always has requests to handle: with few, the processors sleep and wake up for
/// every answer.
pub const CONNECTIONS: usize = 256;
/// More units than any scenario claims.
pub const MANY_UNITS: u64 = 1_000_000_000;
const FEW_UNITS: usize = 100;
pub const FEW_CONNECTIONS_SCENARIO: &str = "few-connections";
/// Share of the end-to-end rate at which `sustained` sends claims.
const SUSTAINED_SHARE: f64 = 0.8;
const BACKLOG_POLL: Duration = Duration::from_millis(50);
/// In `window`, one request in this many waits until its order is recorded. In `mixed`, one in this many is for a
/// coupon with units left.
const ONE_IN: usize = 20;

/// The values that every scenario needs.
pub struct Bench<'a> {
    pub fixture: &'a Fixture,
    pub users: &'a Arc<Users>,
    pub data_dir: &'a Path,
    pub parameters: Parameters,
}

impl Bench<'_> {
    pub(super) async fn drive(&self, server: &Server, requests: Requests) -> anyhow::Result<Answers> {
        load::run(self.load(server, None), Arc::new(requests)).await
    }

    pub(super) const fn load(&self, server: &Server, requests_per_second: Option<f64>) -> Load {
        Load {
            address: server.address,
            connections: CONNECTIONS,
            duration: self.parameters.duration,
            requests_per_second,
        }
    }

    pub(super) fn claims_of_all_users(&self) -> Requests {
        self.users.claims(0..self.users.count(), |_| COUPON)
    }

    pub async fn noop(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let server = self.fixture.start_noop_server().await?;
        let answers = self.drive(&server, self.claims_of_all_users().endless()).await?.only(&[202])?;
        server.stop().await?;
        add_rate_and_latency(results, "noop", &answers, 202);
        Ok(())
    }

    /// Accepted claims, without a worker that records them.
    pub async fn claim(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let server = self.fixture.start_empty_server(0).await?;
        server.create(COUPON, MANY_UNITS).await?;
        let (cpu, scripts) =
            (redis_cpu(&self.fixture.redis).await?, calls(&self.fixture.redis, "evalsha").await?);
        let answers = self.drive(&server, self.claims_of_all_users()).await?.only(&[202])?;
        let cpu = redis_cpu(&self.fixture.redis).await?.saturating_sub(cpu);
        let scripts = calls(&self.fixture.redis, "evalsha").await? - scripts;
        server.stop().await?;
        add_rate_and_latency(results, "claim", &answers, 202);
        results.add_ratio("claim", RATE, ("noop", RATE));
        let accepted = answers.count(202);
        results.add("claim", REDIS_CPU, micros(cpu) / to_f64(accepted), "µs");
        results.add("claim", "claims in one EVALSHA", to_f64(accepted) / to_f64(scripts), "");
        Ok(())
    }

    /// Refused claims of a sold-out coupon: for each, the script looks up whether the user holds a unit.
    pub async fn sold_out(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let server = self.fixture.start_empty_server(0).await?;
        server.create(COUPON, FEW_UNITS as u64).await?;
        self.drive(&server, self.users.claims(0..FEW_UNITS, |_| COUPON)).await?.only(&[202])?;
        let late = self.users.claims(FEW_UNITS..self.users.count(), |_| COUPON).endless();
        let answers = self.drive(&server, late).await?.only(&[409])?;
        server.stop().await?;
        add_rate_and_latency(results, "sold-out", &answers, 409);
        results.add_ratio("sold-out", RATE, ("noop", RATE));
        Ok(())
    }

    /// Repeated claims of a thousand users who hold a unit.
    pub async fn repeat(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let server = self.fixture.start_empty_server(1).await?;
        server.create(COUPON, MANY_UNITS).await?;
        let holders = 0..self.users.count().min(1_000);
        self.drive(&server, self.users.claims(holders.clone(), |_| COUPON)).await?.only(&[202])?;
        self.fixture.wait_until_recorded().await?;
        let again = self.users.claims(holders, |_| COUPON).endless();
        let answers = self.drive(&server, again).await?.only(&[200])?;
        server.stop().await?;
        add_rate_and_latency(results, "repeat", &answers, 200);
        results.add_ratio("repeat", RATE, ("noop", RATE));
        Ok(())
    }

    /// Claims of fifty coupons. One request in twenty is for a coupon that has units left.
    pub async fn mixed(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let server = self.fixture.start_empty_server(1).await?;
        let coupons: Vec<String> = (0..50).map(|number| format!("coupon-{number:02}")).collect();
        for (number, coupon) in coupons.iter().enumerate() {
            server.create(coupon, if number % ONE_IN == 0 { MANY_UNITS } else { 1 }).await?;
        }
        let first = self.users.claims(0..coupons.len(), |user| &coupons[user]);
        self.drive(&server, first).await?.only(&[202])?;
        let available: Vec<&String> = coupons.iter().step_by(ONE_IN).collect();
        let sold_out: Vec<&String> = coupons.iter().filter(|coupon| !available.contains(coupon)).collect();
        let all = self.users.claims(coupons.len()..self.users.count(), |user| match user % ONE_IN {
            0 => available[user / ONE_IN % available.len()],
            _ => sold_out[user % sold_out.len()],
        });
        let answers = self.drive(&server, all).await?.only(&[202, 409])?;
        server.stop().await?;
        let both = Rate { operations: answers.count(202) + answers.count(409), elapsed: answers.elapsed };
        results.add_rate("mixed", RATE, both);
        results.add_ratio("mixed", RATE, ("noop", RATE));
        results.add("mixed", "p99 of claims in time", answers.quantile_ms(202, 0.99), "ms");
        Ok(())
    }

    /// The rate of claims until all of them are rows in Postgres.
    pub async fn end_to_end(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let (answers, recorded) = self.claim_and_record(1, CONNECTIONS, self.parameters.duration).await?;
        results.add_rate("end-to-end", RATE, recorded);
        results.add_rate("end-to-end", "claims while they came", answers.rate(202));
        results.add("end-to-end", P50, answers.quantile_ms(202, 0.5), "ms");
        Ok(())
    }

    /// Like `end_to_end`, with few connections: the cores then wait for wake-ups and for the disk.
    pub async fn few_connections(&self, results: &mut Measurements) -> anyhow::Result<()> {
        for &connections in self.parameters.few_connections {
            let (answers, recorded) =
                self.claim_and_record(1, connections, self.parameters.few_connections_duration).await?;
            results.add_rate(FEW_CONNECTIONS_SCENARIO, rate_with_connections(connections), recorded);
            results.add(
                FEW_CONNECTIONS_SCENARIO,
                with_connections(P50, connections),
                answers.quantile_ms(202, 0.5),
                "ms",
            );
        }
        Ok(())
    }

    /// Like `end_to_end`, with more than one worker.
    pub async fn workers(&self, results: &mut Measurements) -> anyhow::Result<()> {
        for &workers in self.parameters.workers {
            let (_, recorded) = self.claim_and_record(workers, CONNECTIONS, self.parameters.duration).await?;
            let what = format!("{RATE}, {workers} workers");
            results.add_rate("workers", &what, recorded);
            results.add_ratio("workers", &what, ("end-to-end", RATE));
        }
        Ok(())
    }

    /// Sends claims in a closed loop, and waits until all of them are rows in Postgres.
    async fn claim_and_record(
        &self,
        workers: usize,
        connections: usize,
        duration: Duration,
    ) -> anyhow::Result<(Answers, Rate)> {
        let server = self.fixture.start_empty_server(workers).await?;
        server.create(COUPON, MANY_UNITS).await?;
        let started = Instant::now();
        let load = Load { connections, duration, ..self.load(&server, None) };
        let answers = load::run(load, Arc::new(self.claims_of_all_users())).await?.only(&[202])?;
        self.fixture.wait_until_recorded().await?;
        let elapsed = started.elapsed();
        let rows = self.fixture.query_count("select count(*) from orders").await?;
        ensure!(u64::try_from(rows)? == answers.count(202), "{rows} rows of {} claims", answers.count(202));
        server.stop().await?;
        let recorded = Rate { operations: answers.count(202), elapsed };
        Ok((answers, recorded))
    }

    /// The latency of a claim in an open loop at half the end-to-end rate, and the time until its order is recorded, as a
    /// client with `Prefer: wait` sees it.
    pub async fn window(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let requests_per_second =
            results.value("end-to-end", RATE).context("`window` needs the figure of `end-to-end`")? / 2.0;
        let server = self.fixture.start_empty_server(1).await?;
        server.create(COUPON, MANY_UNITS).await?;
        let waits = |user: usize| if user.is_multiple_of(ONE_IN) { "prefer: wait=10\r\n" } else { "" };
        let requests = self.users.claims_with(0..self.users.count(), |_| COUPON, waits);
        let load = self.load(&server, Some(requests_per_second));
        let answers = load::run(load, Arc::new(requests)).await?.only(&[201, 202])?;
        server.stop().await?;
        results.add("window", "claims a second, scheduled", requests_per_second, "/s");
        for (name, status) in [("claim", 202), ("claim → recorded", 201)] {
            for (quantile, text) in [(0.5, "p50"), (0.99, "p99")] {
                results.add("window", format!("{name} {text}"), answers.quantile_ms(status, quantile), "ms");
            }
        }
        Ok(())
    }

    /// Whether the workers keep up with four fifths of the end-to-end rate.
    pub async fn sustained(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let most =
            results.value("end-to-end", RATE).context("`sustained` needs the figure of `end-to-end`")?;
        let requests_per_second = most * SUSTAINED_SHARE;
        let server = self.fixture.start_empty_server(1).await?;
        server.create(COUPON, MANY_UNITS).await?;
        let load = self.load(&server, Some(requests_per_second));
        let mut answers = std::pin::pin!(load::run(load, Arc::new(self.claims_of_all_users())));
        let mut backlog = 0;
        let answers = loop {
            tokio::select! {
                answers = &mut answers => break answers?.only(&[202])?,
                () = tokio::time::sleep(BACKLOG_POLL) => backlog = backlog.max(self.fixture.backlog().await?),
            }
        };
        server.stop().await?;
        results.add("sustained", "claims a second, scheduled", requests_per_second, "/s");
        results.add("sustained", "claim p99", answers.quantile_ms(202, 0.99), "ms");
        results.add(
            "sustained",
            "largest backlog, in seconds of claims",
            to_f64(backlog) / requests_per_second,
            "s",
        );
        Ok(())
    }

    /// One worker process that records a backlog.
    pub async fn drain(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let server = self.fixture.start_empty_server(0).await?;
        server.create(COUPON, MANY_UNITS).await?;
        preload_claims(self.fixture, COUPON, 0..self.parameters.backlog).await?;
        server.stop().await?;
        let backlog = self.fixture.backlog().await?;
        let mut worker = self.fixture.start_worker()?;
        let began = wait_until("the worker has started to record", async || {
            let left = self.fixture.backlog().await?;
            Ok((left < backlog).then_some((left, Instant::now())))
        });
        let (left, began) = began.await?;
        self.fixture.wait_until_recorded().await?;
        results.add_rate("drain", RATE, Rate { operations: left, elapsed: began.elapsed() });
        worker.kill().await?;
        let rows = self.fixture.query_count("select count(*) from orders").await?;
        ensure!(u64::try_from(rows)? == backlog, "{rows} rows of {backlog} events");
        Ok(())
    }
}

/// The name of every scenario's rate.
pub const RATE: &str = "a second";
pub const P50: &str = "claim p50";
pub const REDIS_CPU: &str = "Redis CPU per accepted claim";

/// The name of the end-to-end rate with a number of connections.
pub fn rate_with_connections(connections: usize) -> String {
    with_connections(RATE, connections)
}

pub fn with_connections(what: &str, connections: usize) -> String {
    format!("{what}, {connections} connection{}", if connections == 1 { "" } else { "s" })
}

fn add_rate_and_latency(results: &mut Measurements, scenario: &'static str, answers: &Answers, status: u16) {
    results.add_rate(scenario, RATE, answers.rate(status));
    results.add(scenario, "p50", answers.quantile_ms(status, 0.5), "ms");
    results.add(scenario, "p99", answers.quantile_ms(status, 0.99), "ms");
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
