//! What people do instead, beside the program on the same stores, and what the program's figures are worth next
//! to it.

use anyhow::Context;

use super::alternatives::{
    self, Figure, bare_insert, lua_then_lock, optimistic_lock, per_request, row_per_unit, two_phase,
};
use super::disk::fdatasync;
use super::round::Round;
use super::scenarios::{Bench, COUPON, PLENTY, RATE, REDIS_CPU};
use super::stage::PREFIX;
use crate::redis::{RedisServer, stream};

impl Bench<'_> {
    /// The claim script as the program runs it, one claim at a time.
    pub async fn per_request(&self, round: &mut Round) -> anyhow::Result<()> {
        let server = self.stage.serve(0).await?;
        server.create(COUPON, PLENTY).await?;
        let redis = RedisServer::new(&self.stage.addresses, PREFIX)?;
        let marker = stream::marker(&self.stage.redis).await?.context("there is no marker")?;
        let measured = per_request(&redis, &marker, &COUPON.parse()?, self.plan.alternative_lasts).await?;
        server.stop().await?;
        note(round, "per-request", &[measured.figure]);
        round.add("per-request", REDIS_CPU, measured.redis_cpu_per_claim.as_secs_f64() * 1e6, "µs");
        round.ratio("claim", REDIS_CPU, ("per-request", REDIS_CPU));
        Ok(())
    }

    pub async fn optimistic_lock(&self, round: &mut Round) -> anyhow::Result<()> {
        let figures = optimistic_lock(&self.stage.addresses, self.plan.alternative_lasts).await?;
        note(round, "optimistic-lock", &figures);
        let flush = fdatasync(self.data_dir).await?;
        round.add("optimistic-lock", "one fdatasync", flush.as_secs_f64() * 1e6, "µs");
        round.ratio("end-to-end", RATE, ("optimistic-lock", RATE));
        alternatives::clear(&self.stage.addresses).await
    }

    pub async fn lua_then_lock(&self, round: &mut Round) -> anyhow::Result<()> {
        note(
            round,
            "lua-then-lock",
            &lua_then_lock(&self.stage.addresses, self.plan.alternative_lasts).await?,
        );
        round.ratio("end-to-end", RATE, ("lua-then-lock", RATE));
        alternatives::clear(&self.stage.addresses).await
    }

    pub async fn row_per_unit(&self, round: &mut Round) -> anyhow::Result<()> {
        note(round, "row-per-unit", &row_per_unit(&self.stage.addresses, self.plan.alternative_lasts).await?);
        round.ratio("end-to-end", RATE, ("row-per-unit", RATE));
        alternatives::clear(&self.stage.addresses).await
    }

    pub async fn two_phase(&self, round: &mut Round) -> anyhow::Result<()> {
        note(round, "two-phase", &two_phase(&self.stage.addresses, self.plan.alternative_lasts).await?);
        round.ratio("end-to-end", RATE, ("two-phase", RATE));
        alternatives::clear(&self.stage.addresses).await
    }

    /// The batches of the workers, by a loop that does nothing else.
    pub async fn bare_insert(&self, round: &mut Round) -> anyhow::Result<()> {
        let figure = bare_insert(&self.stage.addresses, self.plan.alternative_lasts).await?;
        round.rate("bare-insert", RATE, figure.rate);
        round.ratio("drain", RATE, ("bare-insert", RATE));
        if let (Some(claim), Some(drain), Some(both)) =
            (round.value("claim", RATE), round.value("drain", RATE), round.value("end-to-end", RATE))
        {
            let of_both = 1.0 / (1.0 / claim + 1.0 / drain);
            round.add("end-to-end", "a second ÷ (claim and drain, one after the other)", both / of_both, "");
        }
        alternatives::clear(&self.stage.addresses).await
    }
}

/// Each round, and the fastest.
fn note(round: &mut Round, scenario: &'static str, figures: &[Figure]) {
    for Figure { name, clients, rate } in figures {
        round.rate(scenario, format!("{name}, {clients} at once"), *rate);
    }
    if let Some(fastest) = alternatives::fastest(figures) {
        round.rate(scenario, RATE, fastest.rate);
    }
}
