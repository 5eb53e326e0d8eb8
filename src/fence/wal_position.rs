//! Records in Redis the highest durable WAL position of Postgres: an older copy of Postgres is behind this position.
//! The position of a commit must reach Redis before the effect of the commit (a definition, a released unit); otherwise
//! the loss of the commit would not be detected.

use super::{Fence, Session, StoreError};
use crate::postgres::{self, Postgres};
use crate::redis::wal_position as redis_position;

/// Reads the durable WAL position of Postgres, which covers all commits so far, and records it in Redis.
///
/// # Errors
/// If a store does not answer, or a script found another marker.
pub async fn record(fence: &Fence, session: &Session, postgres: &Postgres) -> Result<(), StoreError> {
    let lsn = postgres::fence::durable_lsn(&postgres.pool).await?;
    match redis_position::record(&session.redis, &session.ready, &lsn).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            fence.marker_changed(session);
            Err(StoreError::Fenced)
        }
        Err(error) => {
            fence.redis_failed(&session.epoch, &error);
            Err(error.into())
        }
    }
}
