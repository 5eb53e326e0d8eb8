//! The handles that all roles of a worker share, and the actions of every role: wait for the fence, leave the consumer
//! group, report deleted entries.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::domain::Epoch;
use crate::fence::{Fence, FenceState};
use crate::orders::waiters::OrderWaiters;
use crate::postgres::Postgres;
use crate::redis::{Redis, RedisError, RedisServer, marker, scripts};
use crate::tasks::Tasks;

/// Handles for every role of a worker.
#[derive(Clone)]
pub struct Context {
    pub server: RedisServer,
    pub postgres: Postgres,
    pub fence: Fence,
    pub waiters: OrderWaiters,
    pub tasks: Tasks,
    /// Wakes `return_units` when a unit is in the outbox.
    pub unit_waits: Arc<Notify>,
}

impl Context {
    /// Returns when the fence is up or at `stop`.
    pub(super) async fn wait_until_up(&self, stop: &CancellationToken) {
        let mut states = self.fence.subscribe();
        tokio::select! {
            // An error means that the fence's task has ended with the program.
            _ = states.wait_for(|state| matches!(state, FenceState::Up(_))) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Takes the fence down because pending entries were deleted or trimmed. Reads the marker first: the loss belongs
    /// to the current epoch, and the fence ignores a report for an older one.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub(super) async fn report_deleted(&self, redis: &Redis, entries: usize) -> Result<(), RedisError> {
        let marker = marker::read(redis).await?;
        // Without a marker, a rebuild follows in any case.
        if let Some(epoch) = marker.as_deref().and_then(marker::epoch_of) {
            let epoch = Epoch::new(redis.keys.partition, epoch.to_owned());
            self.fence
                .invalidate(&epoch, &format!("{entries} pending entries were deleted or trimmed in Redis"));
        }
        Ok(())
    }

    /// Removes a consumer from the group if it has no pending entries.
    pub(super) async fn leave_group(&self, consumer: &str) {
        let Ok(session) = self.fence.session() else { return };
        let removed =
            scripts::remove_consumer(&session.redis, &session.ready, consumer, Duration::ZERO).await;
        if let Err(error) = removed {
            tracing::debug!(consumer, "consumer {consumer} stays in the group: {error}");
        }
    }
}
