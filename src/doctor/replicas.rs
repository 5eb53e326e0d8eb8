//! Checks that the claims which must reach a replica of Redis before they are answered can reach one.

use std::collections::BTreeSet;

use super::finding::Finding;
use super::postgres::with_timeout;
use super::stream::Limits;
use crate::domain::{ClaimDurability, Partition};
use crate::postgres::{PgConnection, health};
use crate::redis::{Redis, RedisError, server_info};

const CHECK: &str = "redis-answers";

/// Checks the master of each partition in which claims wait for a replica.
pub async fn examine(
    connections: &[Redis],
    postgres: Option<&mut PgConnection>,
    limits: &Limits,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let asking = match asking(postgres, limits).await {
        Ok(asking) => asking,
        Err(why) => return vec![Finding::unreadable(CHECK, &why)],
    };
    for redis in connections {
        let partition = redis.keys.partition;
        if asking.as_ref().is_none_or(|asking| asking.contains(&partition)) {
            findings.push(judge(server_info::has_replica(redis).await).of(partition));
        }
    }
    findings
}

/// The partitions with claims that wait for a replica; `None` for all.
async fn asking(
    postgres: Option<&mut PgConnection>,
    limits: &Limits,
) -> Result<Option<BTreeSet<Partition>>, String> {
    match (limits.answer_after, postgres) {
        (ClaimDurability::Replica, _) => Ok(None),
        (ClaimDurability::Redis, Some(postgres)) => {
            let read = with_timeout(health::partitions_with(postgres, ClaimDurability::Replica)).await;
            read.map(|partitions| Some(partitions.into_iter().collect())).map_err(|error| error.to_string())
        }
        // A Postgres that does not answer has a finding of its own.
        (ClaimDurability::Redis, None) | (ClaimDurability::Postgres, _) => Ok(Some(BTreeSet::new())),
    }
}

fn judge(replica: Result<bool, RedisError>) -> Finding {
    match replica {
        Ok(true) => Finding::green(CHECK, "a replica confirms what Redis writes"),
        Ok(false) => Finding::red(
            CHECK,
            "no replica confirms what Redis writes: claims with durability replica get 503",
            "connect a replica to the master, or set SECKILL_ANSWER_AFTER=redis if no coupon asks for more",
        ),
        Err(error @ RedisError::Refused(_)) => {
            Finding::red(CHECK, error.to_string(), "give Redis's user the right +wait")
        }
        Err(error) => Finding::unreadable(CHECK, &error.to_string()),
    }
}
