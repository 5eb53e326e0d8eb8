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
mod standby;
mod stream;

use futures_util::future::join_all;

use crate::domain::Partition;
use crate::postgres::{PgConnection, Postgres, PostgresError, fence};
use crate::redis::{Redis, RedisServer};
pub use finding::{Finding, Level};
pub use stream::Limits;

/// Runs every check. A store that does not answer is one red finding, and the checks of the other store still run. With
/// several partitions, the findings of a partition name it.
pub async fn examine(server: &RedisServer, postgres: &Postgres, limits: &Limits) -> Vec<Finding> {
    let (redis, postgres) = tokio::join!(redis::examine(server, limits), postgres::examine(postgres));
    let (mut findings, redis) = redis;
    let (postgres_findings, mut postgres) = postgres;
    let mut connections: Vec<Redis> = redis.into_iter().collect();
    let (others, unreadable) = match other_partitions(server, postgres.as_mut()).await {
        Ok(others) => (others, None),
        Err(error) => (Vec::new(), Some(Finding::unreadable("fence", &error.to_string()))),
    };
    // A Redis that does not answer already has a finding.
    if !connections.is_empty() {
        let examined = others.iter().map(|&partition| examine_partition(server, partition, limits));
        for (of_partition, redis) in join_all(examined).await {
            for finding in of_partition {
                // The first partition may have found the same about the server.
                if finding.partition.is_some() || !findings.contains(&finding) {
                    findings.push(finding);
                }
            }
            connections.extend(redis);
        }
    }
    let partitions: Vec<Partition> =
        std::iter::once(server.keys.partition).chain(others.iter().copied()).collect();
    findings.extend(failover::examine(server, &partitions).await);
    findings.extend(postgres_findings);
    findings.extend(unreadable);
    findings.extend(disk::space(server.store_folder()));
    findings.extend(agreement::examine(&connections, postgres).await);
    if others.is_empty() {
        for finding in &mut findings {
            finding.partition = None;
        }
    }
    findings
}

async fn examine_partition(
    server: &RedisServer,
    partition: Partition,
    limits: &Limits,
) -> (Vec<Finding>, Option<Redis>) {
    redis::examine_partition(&server.of(partition), limits).await
}

/// The partitions beside the one of `server`; none without Postgres.
async fn other_partitions(
    server: &RedisServer,
    postgres: Option<&mut PgConnection>,
) -> Result<Vec<Partition>, PostgresError> {
    let Some(postgres) = postgres else { return Ok(Vec::new()) };
    let read = postgres::with_timeout(fence::partitions(postgres)).await?;
    Ok(read.into_iter().filter(|partition| *partition != server.keys.partition).collect())
}
