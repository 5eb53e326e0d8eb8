//! The latency of claims with each durability, at fixed rates: a claim with durability `redis` is answered before its row
//! exists, a claim with durability `postgres` after the commit.

use std::iter;
use std::sync::Arc;

use super::load::{self, Load};
use super::measurements::Measurements;
use super::scenarios::{Bench, CONNECTIONS, COUPON, MANY_UNITS};
use crate::domain::ClaimDurability;

/// Claims a second: so few that each has the program for itself, and a steady sale.
const RATES: [f64; 2] = [100.0, 4_000.0];

impl Bench<'_> {
    pub async fn durability(&self, results: &mut Measurements) -> anyhow::Result<()> {
        for rate in RATES {
            for durability in [ClaimDurability::Redis, ClaimDurability::Postgres] {
                self.claims_with(durability, rate, results).await?;
            }
        }
        Ok(())
    }

    /// The latency of answers; with durability `redis`, every other request waits until its order is recorded.
    async fn claims_with(
        &self,
        durability: ClaimDurability,
        rate: f64,
        results: &mut Measurements,
    ) -> anyhow::Result<()> {
        let server = self.fixture.start_empty_server(1).await?;
        server.create_durable(COUPON, MANY_UNITS, durability).await?;
        let is_redis = durability == ClaimDurability::Redis;
        let waits = |user: usize| if is_redis && user.is_multiple_of(2) { "prefer: wait=10\r\n" } else { "" };
        let requests = self.users.claims_with(0..self.users.count(), |_| COUPON, waits);
        let load = Load {
            address: server.address,
            connections: CONNECTIONS,
            duration: self.parameters.duration,
            requests_per_second: Some(rate),
        };
        let answers = load::run(load, Arc::new(requests)).await?.only(&[201, 202])?;
        server.stop().await?;
        let answered = if is_redis { 202 } else { 201 };
        let recorded = is_redis.then_some(("claim → recorded", 201));
        for (name, status) in iter::once(("claim", answered)).chain(recorded) {
            for (quantile, text) in [(0.5, "p50"), (0.99, "p99")] {
                let what = format!("{}: {name} {text}, {rate} a second", durability.as_str());
                results.add("durability", what, answers.quantile_ms(status, quantile), "ms");
            }
        }
        Ok(())
    }
}
