//! Coupons with a time to pay: their claims compared with those of a plain coupon, whole cycles of claim and confirm, and
//! units that expire and are claimed again. Each load goes over HTTP.

mod buyers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use sqlx::Connection;
use time::OffsetDateTime;

use super::fixture::connect;
use super::load::{self, Load, latencies, quantile_ms};
use super::measurements::Measurements;
use super::preload::preload_claims;
use super::rate::Rate;
use super::report::format_count;
use super::scenarios::{Bench, CONNECTIONS, COUPON, MANY_UNITS, RATE};
use buyers::Way;

pub const TCC: &str = "tcc";
pub const TEXTBOOK_TCC: &str = "textbook-tcc";
/// The rate of whole cycles with the best number of connections.
pub const CYCLES: &str = "try-confirm cycles a second";
pub const RESERVING: &str = "claims of a reserving coupon";
pub const RESERVING_RECORDED: &str = "claims of a reserving coupon, until recorded";
pub const PLAIN: &str = "claims of a plain coupon";
pub const PLAIN_RECORDED: &str = "claims of a plain coupon, until recorded";
pub const CLAIMED_AGAIN_P50: &str = "end of the time to pay → next claim p50";
pub const CLAIMED_AGAIN_P99: &str = "end of the time to pay → next claim p99";
const PLAIN_COUPON: &str = "tea";
/// The warm-up of the cycles has this part of the users and of the duration, and is not counted.
const WARM_UP_SHARE: usize = 4;
/// No order expires during a measurement.
const LONG_RESERVE_SECONDS: u64 = 1_800;
/// Orders expire during the measurement.
const SHORT_RESERVE_SECONDS: u64 = 2;

impl Bench<'_> {
    pub async fn tcc(&self, results: &mut Measurements) -> anyhow::Result<()> {
        self.compare_claims(results).await?;
        for &connections in self.parameters.cycle_connections {
            self.cycles(connections, results).await?;
        }
        let all = results.measurements.iter().filter(|m| m.scenario == TCC && m.what.starts_with(CYCLES));
        if let Some(best) = all.map(|measured| measured.value).max_by(f64::total_cmp) {
            results.add(TCC, CYCLES, best, "/s");
        }
        self.expiry(results).await
    }

    /// Claims of both coupons of one server in turn, so that a machine that gets slower affects both.
    async fn compare_claims(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let server = self.fixture.start_empty_server(1).await?;
        server.create_reserving(COUPON, MANY_UNITS, LONG_RESERVE_SECONDS).await?;
        server.create(PLAIN_COUPON, MANY_UNITS).await?;
        let (mut plain, mut reserving) = ([Rate::default(); 2], [Rate::default(); 2]);
        // The first turn is not counted: it pays for cold caches.
        let turns = [COUPON, PLAIN_COUPON, COUPON, COUPON, PLAIN_COUPON];
        let share = self.users.count() / turns.len();
        for (turn, coupon) in turns.into_iter().enumerate() {
            let claims = self.users.claims(turn * share..(turn + 1) * share, |_| coupon);
            let load = Load {
                address: server.address,
                connections: CONNECTIONS,
                duration: self.parameters.duration / u32::try_from(turns.len() - 1)?,
                requests_per_second: None,
            };
            let started = Instant::now();
            let answers = load::run(load, Arc::new(claims)).await?.only(&[202])?;
            self.fixture.wait_until_recorded().await?;
            if turn == 0 {
                continue;
            }
            let [claimed, recorded] = if coupon == COUPON { &mut reserving } else { &mut plain };
            *claimed += answers.rate(202);
            *recorded += Rate { operations: answers.count(202), elapsed: started.elapsed() };
        }
        server.stop().await?;
        for (what, rate) in [
            (PLAIN, plain[0]),
            (RESERVING, reserving[0]),
            (PLAIN_RECORDED, plain[1]),
            (RESERVING_RECORDED, reserving[1]),
        ] {
            results.add_rate(TCC, what, rate);
        }
        results.add_ratio(TCC, RESERVING, (TCC, PLAIN));
        results.add_ratio(TCC, RESERVING_RECORDED, (TCC, PLAIN_RECORDED));
        Ok(())
    }

    /// Each connection claims for a user, waits until the order is reserved, and confirms it.
    async fn cycles(&self, connections: usize, results: &mut Measurements) -> anyhow::Result<()> {
        let server = self.fixture.start_empty_server(1).await?;
        server.create_reserving(COUPON, MANY_UNITS, LONG_RESERVE_SECONDS).await?;
        let cycle = async |users, duration| {
            let streams = load::connect_all(server.address, connections).await?;
            buyers::run(streams, Way::Confirm, COUPON, (self.users, users), Some(duration)).await
        };
        let warm_up_users = self.users.count() / WARM_UP_SHARE;
        let warm_up =
            cycle(0..warm_up_users, self.parameters.duration / u32::try_from(WARM_UP_SHARE)?).await?;
        let cycles = cycle(warm_up_users..self.users.count(), self.parameters.duration).await?;
        server.stop().await?;

        let confirmed = "select count(*) from orders where status = 'confirmed'";
        let confirmed = u64::try_from(self.fixture.query_count(confirmed).await?)?;
        let made = warm_up.rate.operations + cycles.rate.operations;
        ensure!(
            cycles.rate.operations > 0 && confirmed == made,
            "{confirmed} confirmed orders of {made} cycles"
        );
        results.add_rate(TCC, with_connections(CYCLES, connections), cycles.rate);
        for (quantile, text) in [(0.5, "p50"), (0.99, "p99")] {
            for (name, ms) in
                [("claim → reserved", cycles.claim_ms(quantile)), ("confirm", cycles.confirm_ms(quantile))]
            {
                results.add(TCC, with_connections(&format!("{name} {text}"), connections), ms, "ms");
            }
        }
        Ok(())
    }

    /// All units are claimed and never paid; other users claim them again as they come back.
    async fn expiry(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let units = self.parameters.expiring_units;
        ensure!(2 * units <= self.users.count(), "{units} units need twice as many users");
        let server = self.fixture.start_empty_server(1).await?;
        server.create_reserving(COUPON, units as u64, SHORT_RESERVE_SECONDS).await?;
        preload_claims(self.fixture, COUPON, 0..units).await?;
        let streams = load::connect_all(server.address, CONNECTIONS).await?;
        let users = (self.users, units..2 * units);
        let again = buyers::run(streams, Way::ClaimUntilAccepted, COUPON, users, None).await?;
        ensure!(
            again.rate.operations == units as u64,
            "{} of {units} units came back",
            again.rate.operations
        );
        self.fixture.wait_until_recorded().await?;
        server.stop().await?;
        self.add_expiry(results).await
    }

    /// Compares the nth claim of a unit that came back with the nth end of a time to pay. The clocks of the program and
    /// of Postgres are the same.
    async fn add_expiry(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let units = self.parameters.expiring_units;
        let mut postgres = connect(&self.fixture.addresses).await?;
        let orders: Vec<(OffsetDateTime, OffsetDateTime)> =
            sqlx::query_as("select claimed_at, reserved_until from orders order by claimed_at, id")
                .fetch_all(&mut postgres)
                .await?;
        postgres.close().await?;
        ensure!(orders.len() == 2 * units, "{} orders of {units} units that came back once", orders.len());
        let (first, again) = orders.split_at(units);
        let mut ends: Vec<OffsetDateTime> = first.iter().map(|(_, reserved_until)| *reserved_until).collect();
        ends.sort_unstable();
        let mut waits = latencies()?;
        // An id may be minted a moment before the unit came back.
        for (end, (claimed_at, _)) in ends.iter().zip(again) {
            waits.saturating_record(u64::try_from((*claimed_at - *end).whole_microseconds().max(0))?);
        }
        for (quantile, what) in [(0.5, CLAIMED_AGAIN_P50), (0.99, CLAIMED_AGAIN_P99)] {
            results.add(TCC, what, quantile_ms(&waits, quantile), "ms");
        }
        let elapsed = Duration::try_from(again[units - 1].0 - ends[0])?;
        let what = format!("{} units claimed again, {RATE}", format_count(units));
        results.add_rate(TCC, what, Rate { operations: units as u64, elapsed });
        Ok(())
    }
}

fn with_connections(what: &str, connections: usize) -> String {
    format!("{what}, {} connections", format_count(connections))
}
