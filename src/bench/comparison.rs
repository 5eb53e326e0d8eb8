//! The scenarios that measure the alternatives, on the same stores as the program, and the ratios of the program's
//! figures to those of the alternatives.

use anyhow::Context;

use super::NotMeasurable;
use super::alternatives::{
    self, ClientCheck, Figure, Pgbench, bare_insert, client_check, lua_then_lock, optimistic_lock,
    per_request, row_per_unit, textbook_tcc, two_phase, update_alone,
};
use super::disk::fdatasync;
use super::fixture::PREFIX;
use super::measurements::Measurements;
use super::parameters::{FEW_CONNECTIONS, Parameters};
use super::scenarios::{
    Bench, COUPON, FEW_CONNECTIONS_SCENARIO, MANY_UNITS, RATE, REDIS_CPU, rate_with_connections,
};
use super::tcc::{CYCLES, TCC, TEXTBOOK_TCC};
use crate::domain::Partition;
use crate::redis::{RedisServer, marker};

const CLIENT_CHECK: &str = "client-check";
/// The number of connections at which our end-to-end rate is also compared with each alternative's best rate.
const BEST_RATE_CONNECTIONS: usize = 64;

impl Bench<'_> {
    /// The program's claim script, with one claim in each call.
    pub async fn per_request(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let server = self.fixture.start_empty_server(0).await?;
        server.create(COUPON, MANY_UNITS).await?;
        let redis = RedisServer::new(&self.fixture.addresses, PREFIX, Partition::DEFAULT)?;
        let marker = marker::read(&self.fixture.redis).await?.context("there is no marker")?;
        let measured =
            per_request(&redis, &marker, &COUPON.parse()?, self.parameters.alternative_duration).await?;
        server.stop().await?;
        add_figures(results, "per-request", &[measured.figure]);
        results.add("per-request", REDIS_CPU, measured.redis_cpu_per_claim.as_secs_f64() * 1e6, "µs");
        results.add_ratio("claim", REDIS_CPU, ("per-request", REDIS_CPU));
        Ok(())
    }

    /// Compares the buyers of this process, which run the alternatives that pgbench cannot run, with pgbench.
    pub async fn client_check(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let pgbench = self.pgbench()?;
        self.fixture.empty_stores().await?;
        for &clients in self.parameters.checked_clients {
            let duration = self.parameters.pgbench_duration;
            let check = client_check(&self.fixture.addresses, &pgbench, clients, duration).await?;
            let ClientCheck { pgbench, buyers } = check;
            for figure in [pgbench, buyers] {
                results.add_rate(CLIENT_CHECK, figure_name(&figure), figure.rate);
            }
            results.add_ratio(CLIENT_CHECK, &figure_name(&buyers), (CLIENT_CHECK, &figure_name(&pgbench)));
        }
        alternatives::clear(&self.fixture.addresses).await
    }

    pub async fn optimistic_lock(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let pgbench = self.pgbench()?;
        self.fixture.empty_stores().await?;
        let Parameters { clients, pgbench_duration, .. } = self.parameters;
        let figures = optimistic_lock(&self.fixture.addresses, &pgbench, clients, pgbench_duration).await?;
        add_figures(results, "optimistic-lock", &figures);
        let flush = fdatasync(self.data_dir).await?;
        results.add("optimistic-lock", "one fdatasync", flush.as_secs_f64() * 1e6, "µs");
        add_ratios(results, "optimistic-lock", &figures);
        alternatives::clear(&self.fixture.addresses).await
    }

    pub async fn lua_then_lock(&self, results: &mut Measurements) -> anyhow::Result<()> {
        self.fixture.empty_stores().await?;
        let Parameters { clients, alternative_duration, pgbench_duration, .. } = self.parameters;
        let figures = lua_then_lock(&self.fixture.addresses, clients, alternative_duration).await?;
        add_figures(results, "lua-then-lock", &figures);
        // Shows whether the client limits the alternative. Without pgbench only this part is left out.
        if let (Ok(pgbench), Some(best)) = (self.pgbench(), alternatives::fastest(&figures)) {
            let alone =
                update_alone(&self.fixture.addresses, &pgbench, best.clients, pgbench_duration).await?;
            results.add_rate("lua-then-lock", figure_name(&alone), alone.rate);
            add_ratios(results, "lua-then-lock", &figures);
            results.add_ratio("end-to-end", RATE, ("lua-then-lock", &figure_name(&alone)));
        } else {
            add_ratios(results, "lua-then-lock", &figures);
        }
        alternatives::clear(&self.fixture.addresses).await
    }

    pub async fn row_per_unit(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let pgbench = self.pgbench()?;
        self.fixture.empty_stores().await?;
        let Parameters { clients, pgbench_duration, .. } = self.parameters;
        let figures = row_per_unit(&self.fixture.addresses, &pgbench, clients, pgbench_duration).await?;
        add_figures(results, "row-per-unit", &figures);
        add_ratios(results, "row-per-unit", &figures);
        alternatives::clear(&self.fixture.addresses).await
    }

    pub async fn two_phase(&self, results: &mut Measurements) -> anyhow::Result<()> {
        self.fixture.empty_stores().await?;
        let Parameters { two_phase_clients, alternative_duration, .. } = self.parameters;
        let figures = two_phase(&self.fixture.addresses, two_phase_clients, alternative_duration).await?;
        add_figures(results, "two-phase", &figures);
        add_ratios(results, "two-phase", &figures);
        alternatives::clear(&self.fixture.addresses).await
    }

    /// Whole cycles of try and confirm.
    pub async fn textbook_tcc(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let pgbench = self.pgbench()?;
        self.fixture.empty_stores().await?;
        let Parameters { textbook_clients, pgbench_duration, .. } = self.parameters;
        let figures =
            textbook_tcc(&self.fixture.addresses, &pgbench, textbook_clients, pgbench_duration).await?;
        add_figures(results, TEXTBOOK_TCC, &figures);
        results.add_ratio(TCC, CYCLES, (TEXTBOOK_TCC, RATE));
        alternatives::clear(&self.fixture.addresses).await
    }

    /// # Errors
    /// When this machine has no pgbench; the scenario is then left out.
    fn pgbench(&self) -> anyhow::Result<Pgbench> {
        Pgbench::find(self.data_dir, &self.fixture.addresses)
            .map_err(|error| NotMeasurable(error.to_string()).into())
    }

    /// The rate of inserts alone, in batches of a worker's size.
    pub async fn bare_insert(&self, results: &mut Measurements) -> anyhow::Result<()> {
        self.fixture.empty_stores().await?;
        let figure = bare_insert(&self.fixture.addresses, self.parameters.alternative_duration).await?;
        results.add_rate("bare-insert", RATE, figure.rate);
        results.add_ratio("drain", RATE, ("bare-insert", RATE));
        if let (Some(claim), Some(drain), Some(both)) =
            (results.value("claim", RATE), results.value("drain", RATE), results.value("end-to-end", RATE))
        {
            let one_after_the_other = 1.0 / (1.0 / claim + 1.0 / drain);
            results.add(
                "end-to-end",
                "a second ÷ (claim and drain, one after the other)",
                both / one_after_the_other,
                "",
            );
        }
        alternatives::clear(&self.fixture.addresses).await
    }
}

/// Adds each figure, and the fastest as the scenario's rate.
fn add_figures(results: &mut Measurements, scenario: &'static str, figures: &[Figure]) {
    for figure in figures {
        results.add_rate(scenario, figure_name(figure), figure.rate);
    }
    if let Some(fastest) = alternatives::fastest(figures) {
        results.add_rate(scenario, RATE, fastest.rate);
    }
}

/// Adds the ratio of our end-to-end rate to the alternative's best rate, and the ratio of our rate with few connections to
/// the alternative's rate with the same number of clients.
fn add_ratios(results: &mut Measurements, scenario: &'static str, figures: &[Figure]) {
    results.add_ratio("end-to-end", RATE, (scenario, RATE));
    for connections in FEW_CONNECTIONS {
        let ours = rate_with_connections(connections);
        if connections == BEST_RATE_CONNECTIONS {
            results.add_ratio(FEW_CONNECTIONS_SCENARIO, &ours, (scenario, RATE));
        }
        let same_clients = figures.iter().filter(|figure| figure.clients == connections);
        if let (Some(value), Some(best)) =
            (results.value(FEW_CONNECTIONS_SCENARIO, &ours), alternatives::fastest(same_clients))
        {
            let what = format!("{ours} ÷ {scenario}, {connections} at once");
            results.add(FEW_CONNECTIONS_SCENARIO, what, value / best.rate.per_second(), "");
        }
    }
}

/// The name of a figure in the report.
fn figure_name(figure: &Figure) -> String {
    format!("{}, {} at once", figure.name, figure.clients)
}
