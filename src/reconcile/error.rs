//! Why a comparison ends without a report.

use crate::fence::{Fence, MARKER_CHANGED, Session, StoreError};
use crate::postgres::PostgresError;
use crate::redis::RedisError;

#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The fence is down, or the marker changed during the comparison; the text says why.
    #[error("claims are fenced off: {0}")]
    Fenced(String),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

impl ReconcileError {
    /// Tells the fence that the marker is not the session's any more, and returns that as the error.
    pub(super) fn marker_changed(fence: &Fence, session: &Session) -> Self {
        fence.marker_changed(session);
        Self::Fenced(MARKER_CHANGED.to_owned())
    }
}

impl From<StoreError> for ReconcileError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotReady(reason) => Self::Fenced(reason.to_string()),
            StoreError::Fenced => Self::Fenced(MARKER_CHANGED.to_owned()),
            StoreError::Redis(error) => Self::Redis(error),
            StoreError::Postgres(error) => Self::Postgres(error),
        }
    }
}
