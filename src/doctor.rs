//! Checks both stores for what operators get wrong. Each check is one small function in the files below and gives one
//! finding: green, yellow or red, with what to do. A check queries the stores directly, with or without a running
//! server, writes nothing, and has a timeout for each query. `cli` shows the findings.

mod agreement;
mod definitions;
mod disk;
mod finding;
mod postgres;
mod redis;

use crate::postgres::Postgres;
use crate::redis::RedisServer;
pub use finding::{Finding, Level};
pub use redis::Limits;

/// Runs every check. A store that does not answer is one red finding, and the checks of the other store still run.
pub async fn examine(server: &RedisServer, postgres: &Postgres, limits: &Limits) -> Vec<Finding> {
    let (redis, postgres) = tokio::join!(redis::examine(server, limits), postgres::examine(postgres));
    let (mut findings, redis) = redis;
    let (postgres_findings, postgres) = postgres;
    findings.extend(postgres_findings);
    findings.extend(disk::space(server.store_folder()));
    findings.extend(agreement::examine(redis.as_ref(), postgres).await);
    findings
}
