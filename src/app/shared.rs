//! What all partitions of a process share.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::CredentialSettings;
use crate::coupons::catalogue::Catalogue;
use crate::domain::ClaimDurability;
use crate::orders::waiters::OrderWaiters;
use crate::postgres::Postgres;
use crate::redis::RedisServer;
use crate::tasks::Tasks;

/// The parts that all partitions share.
#[derive(Clone)]
pub struct SharedParts {
    pub server: RedisServer,
    pub postgres: Postgres,
    pub catalogue: Catalogue,
    pub waiters: OrderWaiters,
    pub tasks: Tasks,
    /// Stops the tasks of all partitions, and the tasks of `waiters`.
    pub stop: CancellationToken,
}

/// What the API needs to know.
#[derive(Clone)]
pub struct ApiSettings {
    pub max_backlog: u64,
    /// Connections that the server accepts.
    pub max_connections: usize,
    pub reclaim_after: Duration,
    /// The least that must have a claim when it is answered.
    pub answer_after: ClaimDurability,
    pub credentials: CredentialSettings,
}
