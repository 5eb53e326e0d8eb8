//! How far Postgres's WAL was seen to be durable, kept in Redis: an older copy of Postgres put in its place is
//! known by it. Before the effect of a commit reaches Redis (a definition, a unit that goes back), so does the
//! position of that commit, or nobody would miss the commit.

use super::{Fence, Session};
use crate::postgres::{self, Postgres, PostgresError};
use crate::redis::{RedisError, script};

/// Why the effect of a commit does not reach Redis now.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    #[error("claims are fenced off")]
    Fenced,
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

/// Notes a position that lies behind everything Postgres has answered so far.
pub async fn note(fence: &Fence, session: &Session, postgres: &Postgres) -> Result<(), EffectError> {
    let lsn = postgres::fence::durable_lsn(&postgres.pool).await?;
    match script::note_lsn(&session.redis, &session.ready, &lsn).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            fence.marker_changed(session);
            Err(EffectError::Fenced)
        }
        Err(error) => {
            fence.redis_failed(&session.epoch, &error);
            Err(error.into())
        }
    }
}
