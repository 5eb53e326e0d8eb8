//! Claims that a scenario needs before its measurement starts, made by the claim script without HTTP.

use std::ops::Range;

use anyhow::{Context, ensure};
use tokio::task::JoinSet;

use super::fixture::{Fixture, PREFIX};
use crate::domain::Partition;
use crate::domain::{Claim, CouponId, OrderId};
use crate::redis::scripts::claim::{BatchOutcome, claim_batch};
use crate::redis::{Redis, RedisServer, marker};

const BATCH_CLAIMS: usize = 256;
/// Redis reads 16 KiB of a connection between two flushes (its `PROTO_IOBUF_LEN`), which is less than a batch.
const CONNECTIONS: usize = 4;

/// Claims a unit for each user `user-N`, for every N in `users`.
///
/// # Errors
/// When a batch is refused.
pub async fn preload_claims(fixture: &Fixture, coupon: &str, users: Range<usize>) -> anyhow::Result<()> {
    let marker = marker::read(&fixture.redis).await?.context("there is no marker")?;
    let coupon: CouponId = coupon.parse()?;
    let server = RedisServer::new(&fixture.addresses, PREFIX, Partition::DEFAULT)?;
    let share = users.len().div_ceil(CONNECTIONS).max(1);
    let mut connections = JoinSet::new();
    for first in users.clone().step_by(share) {
        let (redis, marker, coupon) = (server.connect().await?, marker.clone(), coupon.clone());
        let share = first..users.end.min(first + share);
        connections.spawn(async move { claim_all(&redis, &marker, &coupon, share).await });
    }
    while let Some(done) = connections.join_next().await {
        done??;
    }
    Ok(())
}

async fn claim_all(
    redis: &Redis,
    marker: &str,
    coupon: &CouponId,
    users: Range<usize>,
) -> anyhow::Result<()> {
    for first in users.clone().step_by(BATCH_CLAIMS) {
        let batch: Vec<Claim> = (first..users.end.min(first + BATCH_CLAIMS))
            .map(|user| {
                let user = format!("user-{user}").parse()?;
                Ok(Claim { coupon: coupon.clone(), user, order: OrderId::mint(), key: None })
            })
            .collect::<anyhow::Result<_>>()?;
        let reply = claim_batch(redis, marker, i64::MAX, &batch, |_| true).await?;
        ensure!(matches!(reply.outcome, BatchOutcome::Done(_)), "claims are refused: {:?}", reply.outcome);
    }
    Ok(())
}
