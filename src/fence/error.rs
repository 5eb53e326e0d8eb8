//! Why a read or a write that needs the agreement of both stores failed.

use std::sync::Arc;

use crate::postgres::PostgresError;
use crate::redis::RedisError;

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The fence is down, for this reason; nothing was sent to a store.
    #[error("{0}")]
    NotReady(Arc<str>),
    /// A script found another marker than the session's, or an inconsistent coupon: the fence comes down.
    #[error("claims are fenced off")]
    Fenced,
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}
