//! What a claim leaves in Redis for good: its order is recorded, and the program has trimmed the stream.

use super::fill::fill;
use super::round::Round;
use super::scenarios::{Bench, COUPON, PLENTY, count};
use super::stage::until;
use crate::config::STREAM_TAIL_ENTRIES;
use crate::redis::order_stream;

/// Redis trims whole nodes of the stream only.
const TRIMMED_BELOW_ENTRIES: i64 = 2 * STREAM_TAIL_ENTRIES.cast_signed();

impl Bench<'_> {
    pub async fn memory(&self, round: &mut Round) -> anyhow::Result<()> {
        let server = self.stage.serve(1).await?;
        server.create(COUPON, PLENTY).await?;
        let before = self.stage.redis_number("used_memory").await?;
        let claims = self.plan.recorded_claims;
        fill(self.stage, COUPON, 0..claims).await?;
        self.stage.until_recorded().await?;
        until("the stream is trimmed", async || {
            Ok((order_stream::length(&self.stage.redis).await? < TRIMMED_BELOW_ENTRIES).then_some(()))
        })
        .await?;
        let after = self.stage.redis_number("used_memory").await?;
        server.stop().await?;
        let left = count(after.saturating_sub(before)) / count(claims as u64);
        round.add("memory", "left in Redis by a recorded claim", left, "bytes");
        Ok(())
    }
}
