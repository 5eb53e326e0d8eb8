//! Checks both stores for what operators get wrong. Each check is one small function in the files below and gives one
//! finding: green, yellow or red, with what to do. A check queries the stores directly, with or without a running
//! server, writes nothing, and has a timeout for each query. `cli` shows the findings.

mod agreement;
mod definitions;
mod disk;
mod failover;
mod finding;
mod postgres;
mod redis;

use crate::config;
use crate::domain::Partition;
use crate::postgres::{Postgres, fence, with_timeout};
use crate::redis::RedisServer;
pub use finding::{Finding, Level};
pub use redis::Limits;

/// Runs every check. A store that does not answer is one red finding, and the checks of the other store still run.
pub async fn examine(server: &RedisServer, postgres: &Postgres, limits: &Limits) -> Vec<Finding> {
    let pool = postgres.pool.clone();
    let (redis, postgres) = tokio::join!(redis::examine(server, limits), postgres::examine(postgres));
    let (mut findings, redis) = redis;
    let (postgres_findings, postgres) = postgres;
    let partitions =
        with_timeout(config::DOCTOR_QUERY_TIMEOUT, async move { fence::partitions(&pool).await }).await;
    let partitions = partitions.unwrap_or_else(|_| vec![Partition::DEFAULT]);
    findings.extend(failover::examine(server, &partitions).await);
    findings.extend(postgres_findings);
    findings.extend(disk::space(server.store_folder()));
    findings.extend(agreement::examine(redis.as_ref(), postgres).await);
    findings
}
