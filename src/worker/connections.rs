//! The connections of one role: its own one to Redis, and a borrowed one to Postgres for each transaction. They never
//! reconnect by themselves: after an error on one of them the role drops both.

use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::pause::pause;
use crate::config;
use crate::domain::Epoch;
use crate::fence::wal_position::borrow_checked;
use crate::postgres::PostgresError;
use crate::postgres::work::WorkConnection;
use crate::redis::{Redis, RedisError, marker};

pub struct Connections<'a> {
    pub context: &'a Context,
    redis: Option<Redis>,
    /// The fence's session at the connect. A later session may be on another server.
    session: Option<u64>,
}

impl<'a> Connections<'a> {
    /// Connects to nothing yet.
    pub fn new(context: &'a Context) -> Self {
        Self { context, redis: None, session: None }
    }

    /// The connection to Redis, and the epoch of the marker that was read on it (never the epoch from Postgres). Waits
    /// while the fence is down. `None` at `stop`; also, after a pause, if Redis has no `ready` marker.
    ///
    /// # Errors
    /// If Redis cannot be reached or does not answer.
    pub async fn redis(&mut self, stop: &CancellationToken) -> Result<Option<(Redis, Epoch)>, RedisError> {
        self.context.wait_until_up(stop).await;
        let session = self.context.fence.session().ok().map(|session| session.id);
        if session.is_some() && session != self.session {
            self.redis = None;
            self.session = session;
        }
        let redis = match &self.redis {
            Some(redis) => redis.clone(),
            None => self.redis.insert(self.context.server.connect_blocking().await?).clone(),
        };
        let epoch = marker::ready_epoch(&redis).await?;
        if epoch.is_none() {
            pause(config::FENCE_RETRY, stop).await;
        }
        Ok(epoch.map(|epoch| (redis, epoch)))
    }

    /// Drops the connection to Redis; the next use opens a new one.
    pub fn disconnect(&mut self) {
        self.redis = None;
    }
}

/// Borrows a connection to Postgres. First compares a new connection with the WAL position that is recorded in Redis: if
/// Postgres is behind this position, the fence comes down.
///
/// # Errors
/// If Postgres cannot be reached or is an older copy of itself.
pub async fn borrow_postgres(
    context: &Context,
    redis: &Redis,
    epoch: &Epoch,
) -> Result<WorkConnection, PostgresError> {
    borrow_checked(&context.fence, &context.postgres, redis, epoch).await
}
