//! What people do instead, beside the program on the same stores, and what the program's figures are worth next
//! to it.

use anyhow::Context;

use super::Lacking;
use super::alternatives::{
    self, ClientCheck, Figure, Pgbench, bare_insert, client_check, lua_then_lock, optimistic_lock,
    per_request, row_per_unit, two_phase, update_alone,
};
use super::disk::fdatasync;
use super::plan::{FEW_CONNECTIONS, Plan};
use super::round::Round;
use super::scenarios::{Bench, COUPON, FEW, PLENTY, RATE, REDIS_CPU, rate_over};
use super::stage::PREFIX;
use crate::domain::Partition;
use crate::redis::{RedisServer, marker};

const CLIENT_CHECK: &str = "client-check";
/// A number of connections that our end-to-end rate is compared at with the alternatives at their best.
const MANY_CLIENTS: usize = 64;

impl Bench<'_> {
    /// The claim script as the program runs it, one claim at a time.
    pub async fn per_request(&self, round: &mut Round) -> anyhow::Result<()> {
        let server = self.stage.serve(0).await?;
        server.create(COUPON, PLENTY).await?;
        let redis = RedisServer::new(&self.stage.addresses, PREFIX, Partition::DEFAULT)?;
        let marker = marker::read(&self.stage.redis).await?.context("there is no marker")?;
        let measured = per_request(&redis, &marker, &COUPON.parse()?, self.plan.alternative_lasts).await?;
        server.stop().await?;
        note(round, "per-request", &[measured.figure]);
        round.add("per-request", REDIS_CPU, measured.redis_cpu_per_claim.as_secs_f64() * 1e6, "µs");
        round.ratio("claim", REDIS_CPU, ("per-request", REDIS_CPU));
        Ok(())
    }

    /// Whether alternatives that pgbench cannot drive have as good a client.
    pub async fn client_check(&self, round: &mut Round) -> anyhow::Result<()> {
        let pgbench = self.pgbench()?;
        self.stage.empty().await?;
        for &clients in self.plan.checked_clients {
            let lasts = self.plan.pgbench_lasts;
            let check = client_check(&self.stage.addresses, &pgbench, clients, lasts).await?;
            let ClientCheck { pgbench, buyers } = check;
            for figure in [pgbench, buyers] {
                round.rate(CLIENT_CHECK, at_once(&figure), figure.rate);
            }
            round.ratio(CLIENT_CHECK, &at_once(&buyers), (CLIENT_CHECK, &at_once(&pgbench)));
        }
        alternatives::clear(&self.stage.addresses).await
    }

    pub async fn optimistic_lock(&self, round: &mut Round) -> anyhow::Result<()> {
        let pgbench = self.pgbench()?;
        self.stage.empty().await?;
        let Plan { clients, pgbench_lasts, .. } = self.plan;
        let figures = optimistic_lock(&self.stage.addresses, &pgbench, clients, pgbench_lasts).await?;
        note(round, "optimistic-lock", &figures);
        let flush = fdatasync(self.data_dir).await?;
        round.add("optimistic-lock", "one fdatasync", flush.as_secs_f64() * 1e6, "µs");
        compare(round, "optimistic-lock", &figures);
        alternatives::clear(&self.stage.addresses).await
    }

    pub async fn lua_then_lock(&self, round: &mut Round) -> anyhow::Result<()> {
        self.stage.empty().await?;
        let Plan { clients, alternative_lasts, pgbench_lasts, .. } = self.plan;
        let figures = lua_then_lock(&self.stage.addresses, clients, alternative_lasts).await?;
        note(round, "lua-then-lock", &figures);
        // What its client could be blamed for; without pgbench the scheme is measured all the same.
        if let (Ok(pgbench), Some(best)) = (self.pgbench(), alternatives::fastest(&figures)) {
            let alone = update_alone(&self.stage.addresses, &pgbench, best.clients, pgbench_lasts).await?;
            round.rate("lua-then-lock", at_once(&alone), alone.rate);
            compare(round, "lua-then-lock", &figures);
            round.ratio("end-to-end", RATE, ("lua-then-lock", &at_once(&alone)));
        } else {
            compare(round, "lua-then-lock", &figures);
        }
        alternatives::clear(&self.stage.addresses).await
    }

    pub async fn row_per_unit(&self, round: &mut Round) -> anyhow::Result<()> {
        let pgbench = self.pgbench()?;
        self.stage.empty().await?;
        let Plan { clients, pgbench_lasts, .. } = self.plan;
        let figures = row_per_unit(&self.stage.addresses, &pgbench, clients, pgbench_lasts).await?;
        note(round, "row-per-unit", &figures);
        compare(round, "row-per-unit", &figures);
        alternatives::clear(&self.stage.addresses).await
    }

    pub async fn two_phase(&self, round: &mut Round) -> anyhow::Result<()> {
        self.stage.empty().await?;
        let Plan { two_phase_clients, alternative_lasts, .. } = self.plan;
        let figures = two_phase(&self.stage.addresses, two_phase_clients, alternative_lasts).await?;
        note(round, "two-phase", &figures);
        compare(round, "two-phase", &figures);
        alternatives::clear(&self.stage.addresses).await
    }

    /// # Errors
    /// When this machine has no pgbench; the scenario is then left out.
    fn pgbench(&self) -> anyhow::Result<Pgbench> {
        Pgbench::find(self.data_dir, &self.stage.addresses).map_err(|error| Lacking(error.to_string()).into())
    }

    /// The batches of the workers, by a loop that does nothing else.
    pub async fn bare_insert(&self, round: &mut Round) -> anyhow::Result<()> {
        self.stage.empty().await?;
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
    for figure in figures {
        round.rate(scenario, at_once(figure), figure.rate);
    }
    if let Some(fastest) = alternatives::fastest(figures) {
        round.rate(scenario, RATE, fastest.rate);
    }
}

/// The program end to end beside an alternative at its best; and with few connections beside it with as many clients.
fn compare(round: &mut Round, scenario: &'static str, figures: &[Figure]) {
    round.ratio("end-to-end", RATE, (scenario, RATE));
    for connections in FEW_CONNECTIONS {
        let ours = rate_over(connections);
        if connections == MANY_CLIENTS {
            round.ratio(FEW, &ours, (scenario, RATE));
        }
        let same = figures.iter().filter(|figure| figure.clients == connections);
        if let (Some(value), Some(best)) = (round.value(FEW, &ours), alternatives::fastest(same)) {
            let what = format!("{ours} ÷ {scenario}, {connections} at once");
            round.add(FEW, what, value / best.rate.per_second(), "");
        }
    }
}

fn at_once(figure: &Figure) -> String {
    format!("{}, {} at once", figure.name, figure.clients)
}
