//! Memory that Redis keeps for a claim after its order is recorded and the stream is trimmed.

use super::fixture::wait_until;
use super::measurements::Measurements;
use super::preload::preload_claims;
use super::rate::to_f64;
use super::scenarios::{Bench, COUPON, MANY_UNITS};
use crate::config::STREAM_TAIL_ENTRIES;
use crate::redis::order_stream;

/// More entries than the trim keeps: Redis trims only whole nodes of a stream (`XTRIM … ~`).
const TRIMMED_BELOW_ENTRIES: i64 = 2 * STREAM_TAIL_ENTRIES.cast_signed();

impl Bench<'_> {
    pub async fn memory(&self, results: &mut Measurements) -> anyhow::Result<()> {
        let server = self.fixture.start_empty_server(1).await?;
        server.create(COUPON, MANY_UNITS).await?;
        let before = self.fixture.redis_info_number("used_memory").await?;
        let claims = self.parameters.recorded_claims;
        preload_claims(self.fixture, COUPON, 0..claims).await?;
        self.fixture.wait_until_recorded().await?;
        wait_until("the stream is trimmed", async || {
            Ok((order_stream::length(&self.fixture.redis).await? < TRIMMED_BELOW_ENTRIES).then_some(()))
        })
        .await?;
        let after = self.fixture.redis_info_number("used_memory").await?;
        server.stop().await?;
        let left = to_f64(after.saturating_sub(before)) / to_f64(claims as u64);
        results.add("memory", "left in Redis by a recorded claim", left, "bytes");
        Ok(())
    }
}
