//! What the program is asked to do, scenario by scenario. Each begins with empty stores.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::Rate;
use super::fill::fill;
use super::load::{self, Answers, Load};
use super::plan::Plan;
use super::redis_cpu::redis_cpu;
use super::requests::{Requests, Users};
use super::round::Round;
use super::stage::{Server, Stage, until};
use crate::redis::health::calls;

pub const COUPON: &str = "coffee";
/// Enough that nobody waits for the load: with few, processors sleep and wake for every answer.
pub const CONNECTIONS: usize = 256;
pub const PLENTY: u64 = 1_000_000_000;
const FEW_UNITS: usize = 100;
pub const FEW: &str = "few-connections";
/// Of the end-to-end rate.
const SUSTAINED_SHARE: f64 = 0.8;
const BACKLOG_LOOKS: Duration = Duration::from_millis(50);
/// One request in so many waits until its order is recorded.
const WAITING_SHARE: usize = 20;

pub struct Bench<'a> {
    pub stage: &'a Stage,
    pub users: &'a Users,
    pub data_dir: &'a Path,
    pub plan: Plan,
}

impl Bench<'_> {
    pub(super) async fn drive(&self, server: &Server, requests: Requests) -> anyhow::Result<Answers> {
        load::run(self.load(server, None), Arc::new(requests)).await
    }

    const fn load(&self, server: &Server, pace: Option<f64>) -> Load {
        Load { address: server.address, connections: CONNECTIONS, lasts: self.plan.lasts, pace }
    }

    pub(super) fn everybody(&self) -> Requests {
        self.users.claims(0..self.users.count(), |_| COUPON)
    }

    pub async fn noop(&self, round: &mut Round) -> anyhow::Result<()> {
        let server = self.stage.start_noop().await?;
        let answers = self.drive(&server, self.everybody().endless()).await?.only(&[202])?;
        server.stop().await?;
        note(round, "noop", &answers, 202);
        Ok(())
    }

    /// Accepted claims, and nobody who records them.
    pub async fn claim(&self, round: &mut Round) -> anyhow::Result<()> {
        let server = self.stage.serve(0).await?;
        server.create(COUPON, PLENTY).await?;
        let (cpu, scripts) =
            (redis_cpu(&self.stage.redis).await?, calls(&self.stage.redis, "evalsha").await?);
        let answers = self.drive(&server, self.everybody()).await?.only(&[202])?;
        let cpu = redis_cpu(&self.stage.redis).await?.saturating_sub(cpu);
        let scripts = calls(&self.stage.redis, "evalsha").await? - scripts;
        server.stop().await?;
        note(round, "claim", &answers, 202);
        round.ratio("claim", RATE, ("noop", RATE));
        let accepted = answers.count(202);
        round.add("claim", REDIS_CPU, micros(cpu) / count(accepted), "µs");
        round.add("claim", "claims in one EVALSHA", count(accepted) / count(scripts), "");
        Ok(())
    }

    /// A hundred units are gone; whether they hold one is looked up for each who comes too late.
    pub async fn sold_out(&self, round: &mut Round) -> anyhow::Result<()> {
        let server = self.stage.serve(0).await?;
        server.create(COUPON, FEW_UNITS as u64).await?;
        self.drive(&server, self.users.claims(0..FEW_UNITS, |_| COUPON)).await?.only(&[202])?;
        let late = self.users.claims(FEW_UNITS..self.users.count(), |_| COUPON).endless();
        let answers = self.drive(&server, late).await?.only(&[409])?;
        server.stop().await?;
        note(round, "sold-out", &answers, 409);
        round.ratio("sold-out", RATE, ("noop", RATE));
        Ok(())
    }

    /// The same thousand holders again and again.
    pub async fn repeat(&self, round: &mut Round) -> anyhow::Result<()> {
        let server = self.stage.serve(1).await?;
        server.create(COUPON, PLENTY).await?;
        let holders = 0..self.users.count().min(1_000);
        self.drive(&server, self.users.claims(holders.clone(), |_| COUPON)).await?.only(&[202])?;
        self.stage.until_recorded().await?;
        let again = self.users.claims(holders, |_| COUPON).endless();
        let answers = self.drive(&server, again).await?.only(&[200])?;
        server.stop().await?;
        note(round, "repeat", &answers, 200);
        round.ratio("repeat", RATE, ("noop", RATE));
        Ok(())
    }

    /// Fifty coupons; one claim in twenty comes in time.
    pub async fn mixed(&self, round: &mut Round) -> anyhow::Result<()> {
        let server = self.stage.serve(1).await?;
        let coupons: Vec<String> = (0..50).map(|number| format!("coupon-{number:02}")).collect();
        for (number, coupon) in coupons.iter().enumerate() {
            server.create(coupon, if number % WAITING_SHARE == 0 { PLENTY } else { 1 }).await?;
        }
        let first = self.users.claims(0..coupons.len(), |user| &coupons[user]);
        self.drive(&server, first).await?.only(&[202])?;
        let in_time: Vec<&String> = coupons.iter().step_by(WAITING_SHARE).collect();
        let too_late: Vec<&String> = coupons.iter().filter(|coupon| !in_time.contains(coupon)).collect();
        let all = self.users.claims(coupons.len()..self.users.count(), |user| match user % WAITING_SHARE {
            0 => in_time[user / WAITING_SHARE % in_time.len()],
            _ => too_late[user % too_late.len()],
        });
        let answers = self.drive(&server, all).await?.only(&[202, 409])?;
        server.stop().await?;
        let both = Rate { operations: answers.count(202) + answers.count(409), elapsed: answers.elapsed };
        round.rate("mixed", RATE, both);
        round.ratio("mixed", RATE, ("noop", RATE));
        round.add("mixed", "p99 of claims in time", answers.quantile_ms(202, 0.99), "ms");
        Ok(())
    }

    /// Claims until all of them are rows.
    pub async fn end_to_end(&self, round: &mut Round) -> anyhow::Result<()> {
        let (answers, recorded) = self.claim_and_record(1, CONNECTIONS, self.plan.lasts).await?;
        round.rate("end-to-end", RATE, recorded);
        round.rate("end-to-end", "claims while they came", answers.rate(202));
        round.add("end-to-end", P50, answers.quantile_ms(202, 0.5), "ms");
        Ok(())
    }

    /// The same over connections so few that the cores wait for wake-ups and the disk.
    pub async fn few_connections(&self, round: &mut Round) -> anyhow::Result<()> {
        for &connections in self.plan.few_connections {
            let (answers, recorded) = self.claim_and_record(1, connections, self.plan.few_lasts).await?;
            round.rate(FEW, rate_over(connections), recorded);
            round.add(FEW, over(P50, connections), answers.quantile_ms(202, 0.5), "ms");
        }
        Ok(())
    }

    /// The same with more workers than one.
    pub async fn workers(&self, round: &mut Round) -> anyhow::Result<()> {
        for &workers in self.plan.workers {
            let (_, recorded) = self.claim_and_record(workers, CONNECTIONS, self.plan.lasts).await?;
            let what = format!("{RATE}, {workers} workers");
            round.rate("workers", &what, recorded);
            round.ratio("workers", &what, ("end-to-end", RATE));
        }
        Ok(())
    }

    /// Claims as fast as they are answered, and until all of them are rows.
    async fn claim_and_record(
        &self,
        workers: usize,
        connections: usize,
        lasts: Duration,
    ) -> anyhow::Result<(Answers, Rate)> {
        let server = self.stage.serve(workers).await?;
        server.create(COUPON, PLENTY).await?;
        let started = Instant::now();
        let load = Load { connections, lasts, ..self.load(&server, None) };
        let answers = load::run(load, Arc::new(self.everybody())).await?.only(&[202])?;
        self.stage.until_recorded().await?;
        let elapsed = started.elapsed();
        let rows = self.stage.count("select count(*) from orders").await?;
        ensure!(u64::try_from(rows)? == answers.count(202), "{rows} rows of {} claims", answers.count(202));
        server.stop().await?;
        let recorded = Rate { operations: answers.count(202), elapsed };
        Ok((answers, recorded))
    }

    /// At half the end-to-end rate, by a schedule that waits for nobody: how long a claim takes, and how long it
    /// is until a claim's order is recorded, as whoever asks with `Prefer: wait` sees it.
    pub async fn window(&self, round: &mut Round) -> anyhow::Result<()> {
        let pace = round.value("end-to-end", RATE).context("the window is measured after end-to-end")? / 2.0;
        let server = self.stage.serve(1).await?;
        server.create(COUPON, PLENTY).await?;
        let waits = |user: usize| if user.is_multiple_of(WAITING_SHARE) { "prefer: wait=10\r\n" } else { "" };
        let requests = self.users.claims_with(0..self.users.count(), |_| COUPON, waits);
        let load = self.load(&server, Some(pace));
        let answers = load::run(load, Arc::new(requests)).await?.only(&[201, 202])?;
        server.stop().await?;
        round.add("window", "claims a second, scheduled", pace, "/s");
        for (name, status) in [("claim", 202), ("claim → recorded", 201)] {
            for (quantile, text) in [(0.5, "p50"), (0.99, "p99")] {
                round.add("window", format!("{name} {text}"), answers.quantile_ms(status, quantile), "ms");
            }
        }
        Ok(())
    }

    /// At four fifths of the end-to-end rate: whether the workers keep up.
    pub async fn sustained(&self, round: &mut Round) -> anyhow::Result<()> {
        let most = round.value("end-to-end", RATE).context("sustained is measured after end-to-end")?;
        let pace = most * SUSTAINED_SHARE;
        let server = self.stage.serve(1).await?;
        server.create(COUPON, PLENTY).await?;
        let load = self.load(&server, Some(pace));
        let mut answers = std::pin::pin!(load::run(load, Arc::new(self.everybody())));
        let mut backlog = 0;
        let answers = loop {
            tokio::select! {
                answers = &mut answers => break answers?.only(&[202])?,
                () = tokio::time::sleep(BACKLOG_LOOKS) => backlog = backlog.max(self.stage.backlog().await?),
            }
        };
        server.stop().await?;
        round.add("sustained", "claims a second, scheduled", pace, "/s");
        round.add("sustained", "claim p99", answers.quantile_ms(202, 0.99), "ms");
        round.add("sustained", "largest backlog, in seconds of claims", count(backlog) / pace, "s");
        Ok(())
    }

    /// One worker process on a backlog.
    pub async fn drain(&self, round: &mut Round) -> anyhow::Result<()> {
        let server = self.stage.serve(0).await?;
        server.create(COUPON, PLENTY).await?;
        fill(self.stage, COUPON, 0..self.plan.backlog).await?;
        server.stop().await?;
        let backlog = self.stage.backlog().await?;
        let mut worker = self.stage.work()?;
        let began = until("the worker begins", async || {
            let left = self.stage.backlog().await?;
            Ok((left < backlog).then_some((left, Instant::now())))
        });
        let (left, began) = began.await?;
        self.stage.until_recorded().await?;
        round.rate("drain", RATE, Rate { operations: left, elapsed: began.elapsed() });
        worker.kill().await?;
        let rows = self.stage.count("select count(*) from orders").await?;
        ensure!(u64::try_from(rows)? == backlog, "{rows} rows of {backlog} events");
        Ok(())
    }
}

/// What every scenario's rate is called.
pub const RATE: &str = "a second";
pub const P50: &str = "claim p50";
pub const REDIS_CPU: &str = "Redis CPU per accepted claim";

/// What the end-to-end rate over so many connections is called.
pub fn rate_over(connections: usize) -> String {
    over(RATE, connections)
}

pub fn over(what: &str, connections: usize) -> String {
    format!("{what}, {connections} connection{}", if connections == 1 { "" } else { "s" })
}

fn note(round: &mut Round, scenario: &'static str, answers: &Answers, status: u16) {
    round.rate(scenario, RATE, answers.rate(status));
    round.add(scenario, "p50", answers.quantile_ms(status, 0.5), "ms");
    round.add(scenario, "p99", answers.quantile_ms(status, 0.99), "ms");
}

#[expect(clippy::cast_precision_loss, reason = "no run counts that far")]
pub fn count(operations: u64) -> f64 {
    operations as f64
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
