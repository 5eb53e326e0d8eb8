//! How far Postgres's WAL was seen to be durable, kept in Redis: an older copy of Postgres put in its place is
//! known by it. Before the effect of a commit reaches Redis (a definition, a unit that goes back), so does the
//! position of that commit, or nobody would miss the commit.

use super::{Fence, Session, StoreError};
use crate::postgres::{self, Postgres};
use crate::redis::scripts;

/// Notes a position that lies behind everything Postgres has answered so far.
pub async fn record(fence: &Fence, session: &Session, postgres: &Postgres) -> Result<(), StoreError> {
    let lsn = postgres::fence::durable_lsn(&postgres.pool).await?;
    match scripts::note_lsn(&session.redis, &session.ready, &lsn).await {
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
