//! The sweeper: expires overdue orders in batches while the fence is up. Every process with workers has one sweeper.
//! Several sweepers can run at the same time, because each one skips the orders that another one has locked. The units
//! of the orders go through the outbox (`return_units`).

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::pause::{backoff, pause};
use super::stall::Stall;
use crate::config;
use crate::fence::StoreError;
use crate::orders::expiry::Expiry;
use crate::postgres::expiry::Overdue;

const ROLE: &str = "sweeper";

/// Sweeps until `stop`; between two sweeps it sleeps until the next deadline, by the monotonic clock.
pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let expiry = Expiry::new(context.fence.clone(), context.postgres.clone());
    let mut stall = Stall::default();
    let mut delays = backoff();
    while !stop.is_cancelled() {
        context.wait_until_up(&stop).await;
        let swept = tokio::select! {
            swept = sweep(&context, &expiry) => swept,
            // Safe: dropping the connection rolls its transaction back.
            () = stop.cancelled() => return,
        };
        let delay = match swept {
            Ok(delay) => {
                stall.record_success(ROLE);
                delays = backoff();
                delay
            }
            Err(error) => {
                stall.record_failure(ROLE, &error.to_string());
                delays.next().unwrap_or_default()
            }
        };
        pause(delay, &stop).await;
    }
}

/// Expires a batch if an order is overdue. Returns the time until the next sweep.
async fn sweep(context: &Context, expiry: &Expiry) -> Result<Duration, StoreError> {
    let next = expiry.next_deadline().await?.unwrap_or(Duration::MAX);
    if !next.is_zero() {
        return Ok(next.clamp(config::SWEEP_PAUSE_MIN, config::SWEEP_PAUSE_MAX));
    }
    let batch = config::SWEEP_BATCH_MAX_ORDERS;
    let expired = expiry.expire(Overdue::Oldest(batch)).await?;
    if expired > 0 {
        tracing::debug!(orders = expired, "expired {expired} orders");
        context.unit_waits.notify_one();
    }
    Ok(if expired == batch { Duration::ZERO } else { config::SWEEP_PAUSE_MIN })
}
