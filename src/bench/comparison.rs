//! What people do instead, beside the program on the same stores, and what the program's figures are worth next
//! to it.

use std::time::Duration;

use anyhow::Context;

use super::alternatives::{
    self, Figure, bare_insert, lua_then_lock, optimistic_lock, per_request, row_per_unit, two_phase,
};
use super::disk::fdatasync;
use super::report::Report;
use super::scenarios::{Bench, COUPON, PLENTY, RATE, REDIS_CPU};
use super::stage::PREFIX;
use crate::redis::{RedisServer, stream};

impl Bench<'_> {
    /// The claim script as the program runs it, one claim at a time.
    pub async fn per_request(&self, report: &mut Report) -> anyhow::Result<()> {
        let server = self.stage.serve(0).await?;
        server.create(COUPON, PLENTY).await?;
        let redis = RedisServer::new(&self.stage.addresses, PREFIX)?;
        let marker = stream::marker(&self.stage.redis).await?.context("there is no marker")?;
        let measured = per_request(&redis, &marker, &COUPON.parse()?, self.round).await?;
        server.stop().await?;
        note(report, "per-request", &[measured.figure]);
        report.add("per-request", REDIS_CPU, measured.redis_cpu_per_claim.as_secs_f64() * 1e6, "µs");
        report.ratio("claim", REDIS_CPU, ("per-request", REDIS_CPU));
        Ok(())
    }

    pub async fn optimistic_lock(&self, report: &mut Report) -> anyhow::Result<()> {
        let figures = optimistic_lock(&self.stage.addresses, self.round).await?;
        note(report, "optimistic-lock", &figures);
        let flush = fdatasync(self.data_dir).await?;
        report.add("optimistic-lock", "one fdatasync", flush.as_secs_f64() * 1e6, "µs");
        report.ratio("end-to-end", RATE, ("optimistic-lock", RATE));
        Ok(())
    }

    pub async fn lua_then_lock(&self, report: &mut Report) -> anyhow::Result<()> {
        note(report, "lua-then-lock", &lua_then_lock(&self.stage.addresses, self.round).await?);
        report.ratio("end-to-end", RATE, ("lua-then-lock", RATE));
        Ok(())
    }

    pub async fn row_per_unit(&self, report: &mut Report) -> anyhow::Result<()> {
        note(report, "row-per-unit", &row_per_unit(&self.stage.addresses, self.round).await?);
        report.ratio("end-to-end", RATE, ("row-per-unit", RATE));
        Ok(())
    }

    pub async fn two_phase(&self, report: &mut Report) -> anyhow::Result<()> {
        note(report, "two-phase", &two_phase(&self.stage.addresses, self.round).await?);
        report.ratio("end-to-end", RATE, ("two-phase", RATE));
        Ok(())
    }

    /// The batches of the workers, by a loop that does nothing else.
    pub async fn bare_insert(&self, report: &mut Report) -> anyhow::Result<()> {
        let figure = bare_insert(&self.stage.addresses, self.round).await?;
        report.rate("bare-insert", RATE, figure.rate);
        report.ratio("drain", RATE, ("bare-insert", RATE));
        if let (Some(claim), Some(drain), Some(both)) =
            (report.value("claim", RATE), report.value("drain", RATE), report.value("end-to-end", RATE))
        {
            let of_both = 1.0 / (1.0 / claim + 1.0 / drain);
            report.add("end-to-end", "a second ÷ (claim and drain, one after the other)", both / of_both, "");
        }
        Ok(())
    }
}

/// Each round, and the fastest.
fn note(report: &mut Report, scenario: &'static str, figures: &[Figure]) {
    for Figure { name, clients, rate } in figures {
        report.rate(scenario, format!("{name}, {clients} at once"), *rate);
    }
    if let Some(fastest) = alternatives::fastest(figures) {
        report.rate(scenario, RATE, fastest.rate);
    }
}

/// How long one round lasts; each alternative has a few.
pub const fn round(is_quick: bool) -> Duration {
    Duration::from_secs(if is_quick { 1 } else { 3 })
}
