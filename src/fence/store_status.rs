//! The state of each store and of the fence that compares them, for `/readyz?verbose`.

use std::path::Path;

use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

use super::Fence;
use crate::domain::Partition;
use crate::postgres::fence::FenceRow;
use crate::postgres::health::{self, Waiting};
use crate::postgres::{self, Postgres, PostgresError};
use crate::redis::{RedisError, RedisServer, server_info};
use crate::{config, disk};

const OK: &str = "ok";

/// Reads the state of both stores, with a session or without one. A cheap handle.
#[derive(Clone)]
pub struct Stores {
    fence: Fence,
    redis: RedisServer,
    postgres: Postgres,
}

/// `ok` for each store, or why not.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Stores)]
pub struct StoreStatus {
    pub redis: String,
    pub postgres: String,
    fence: String,
    /// Unrecorded order events.
    backlog: u64,
    /// RFC 3339, by this machine's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_away_since: Option<String>,
    /// The disk of an embedded store has little space left.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<String>,
}

impl StoreStatus {
    /// The worst of each part, for the partitions of one installation. With several, the fence that is down is named.
    #[must_use]
    pub fn merge(mut parts: Vec<(Partition, Self)>) -> Self {
        if parts.len() > 1 {
            for (partition, part) in parts.iter_mut().filter(|(_, part)| part.fence != OK) {
                part.fence = format!("partition {partition}: {}", part.fence);
            }
        }
        let mut parts = parts.into_iter().map(|(_, part)| part);
        let Some(first) = parts.next() else {
            let starting = || "starting".to_owned();
            let (redis, postgres, fence) = (starting(), starting(), starting());
            return Self { redis, postgres, fence, backlog: 0, postgres_away_since: None, disk: None };
        };
        let worse = |one: String, other: String| if one == OK { other } else { one };
        parts.fold(first, |one, other| Self {
            redis: worse(one.redis, other.redis),
            postgres: worse(one.postgres, other.postgres),
            fence: worse(one.fence, other.fence),
            backlog: one.backlog + other.backlog,
            postgres_away_since: one.postgres_away_since.or(other.postgres_away_since),
            disk: one.disk.or(other.disk),
        })
    }
}

/// What waits in Postgres.
pub struct Queues {
    /// Units that wait for their return to stock.
    pub outbox: Waiting,
    /// Orders that wait for the sweeper.
    pub overdue: Waiting,
    /// The number of reserved orders, which wait for their confirm.
    pub reserved: i64,
    /// Dead letters that no operator has replayed or discarded.
    pub dead_letters: i64,
}

impl Stores {
    #[must_use]
    pub const fn new(fence: Fence, redis: RedisServer, postgres: Postgres) -> Self {
        Self { fence, redis, postgres }
    }

    /// The fence that compares these stores.
    #[must_use]
    pub const fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Queries both stores; waits at most `PROBE_INTERVAL` for each query to Postgres.
    pub async fn status(&self) -> StoreStatus {
        let postgres = self.postgres().await;
        let outage = postgres.as_ref().err().and(self.fence.postgres_outage());
        let since = outage.and_then(|outage| outage.since.format(&Rfc3339).ok());
        let postgres = postgres.map_err(|error| error.to_string()).and_then(|row| compare_identity(&row));
        let word = |result: Result<(), String>| result.err().unwrap_or_else(|| OK.into());
        StoreStatus {
            redis: word(self.redis().await),
            postgres: word(postgres),
            fence: word(self.fence.session().map(drop).map_err(|reason| reason.to_string())),
            backlog: self.fence.backlog(),
            postgres_away_since: since,
            // A Postgres without disk space still answers reads.
            disk: self.postgres.store_folder().and_then(disk::shortage),
        }
    }

    /// What waits in Postgres.
    ///
    /// # Errors
    /// Where Postgres does not answer within `PROBE_INTERVAL`.
    pub async fn queues(&self) -> Result<Queues, PostgresError> {
        let pool = self.postgres.pool.clone();
        let read = async move {
            let outbox = health::outbox(&pool).await?;
            let overdue = health::overdue(&pool).await?;
            let reserved = health::reserved(&pool).await?;
            Ok(Queues { outbox, overdue, reserved, dead_letters: health::unseen_letters(&pool).await? })
        };
        postgres::with_timeout(config::PROBE_INTERVAL, read).await
    }

    /// The key of the order stream in Redis.
    #[must_use]
    pub fn stream_key(&self) -> &str {
        &self.redis.keys.orders
    }

    /// The embedded stores, each with the free bytes of its disk; nothing for servers of the operator.
    #[must_use]
    pub fn free_bytes(&self) -> Vec<(&'static str, u64)> {
        let folders = [("redis", self.redis.store_folder()), ("postgres", self.postgres.store_folder())];
        let space = |(store, folder): (_, Option<&Path>)| Some((store, disk::space(folder?)?.free_bytes));
        folders.into_iter().filter_map(space).collect()
    }

    async fn redis(&self) -> Result<(), String> {
        let answered = match self.fence.session() {
            Ok(session) => server_info::now_ms(&session.redis).await.map(drop),
            Err(_) => ask_on_a_new_connection(&self.redis).await,
        };
        answered.map_err(|error| error.to_string())?;
        // A Redis that answers may still refuse to write.
        if self.fence.session().is_ok() {
            self.fence.taking_claims().map_err(|reason| reason.to_string())?;
        }
        Ok(())
    }

    async fn postgres(&self) -> Result<FenceRow, PostgresError> {
        let pool = self.postgres.pool.clone();
        let partition = self.fence.partition();
        let read = async move { postgres::fence::read(&pool, partition).await };
        let row = postgres::with_timeout(config::PROBE_INTERVAL, read).await;
        if row.is_err() {
            // The pool does not say why it gets no connection; a new connection does.
            let server = self.postgres.clone();
            let connecting = async move { server.work.try_connecting(partition).await };
            postgres::with_timeout(config::PROBE_INTERVAL, connecting).await?;
        }
        row
    }
}

/// Checks the identity: a Postgres that answers may not be the one of the last agreement.
fn compare_identity(row: &FenceRow) -> Result<(), String> {
    if row.postgres_lost {
        return Err("it has lost commits that Redis still knows".into());
    }
    if !row.postgres_identity.is_empty() && row.postgres_identity != row.this_postgres {
        return Err("it is not the server of the last agreement (restored, promoted or new)".into());
    }
    Ok(())
}

async fn ask_on_a_new_connection(server: &RedisServer) -> Result<(), RedisError> {
    let redis = server.connect().await?;
    server_info::now_ms(&redis).await.map(drop)
}
