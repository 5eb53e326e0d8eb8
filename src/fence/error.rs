//! Why a read or an effect that needs the agreement of both stores was not done.

use std::sync::Arc;

use crate::postgres::PostgresError;
use crate::redis::RedisError;

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The fence is down, for this reason: nothing was tried.
    #[error("{0}")]
    NotReady(Arc<str>),
    /// A script met another marker than its own, or Redis does not add up: the fence comes down.
    #[error("claims are fenced off")]
    Fenced,
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}
