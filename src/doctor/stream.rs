//! The stream of order events of one partition, and the workers that read it.

use std::time::Duration;

use super::finding::{Finding, REPAIRED_BY_SERVER, format_seconds, pluralize};
use crate::config;
use crate::domain::ClaimDurability;
use crate::redis::keys::GROUP;
use crate::redis::order_stream::{self, ConsumerInfo, GroupInfo};
use crate::redis::{Redis, RedisError, deleted_entries, health, server_info};

/// Settings of the running program; the state of the stream is compared with them.
#[derive(Clone, Debug)]
pub struct Limits {
    pub reclaim_after: Duration,
    /// In order events.
    pub max_backlog: u64,
    /// The least that must have a claim when it is answered.
    pub answer_after: ClaimDurability,
}

const START_WORKERS: &str = "start `seckill worker`, or `seckill serve` with SECKILL_WORKERS of 1 or more";

/// Checks the stream of the connection's partition.
///
/// # Errors
/// If Redis does not answer.
pub async fn examine(redis: &Redis, limits: &Limits) -> Result<Vec<Finding>, RedisError> {
    let partition = redis.keys.partition;
    let findings = match check(redis, limits).await {
        Err(error @ RedisError::Refused(_)) => {
            vec![Finding::unreadable("order-stream", &error.to_string())]
        }
        Err(error @ (RedisError::WrongType(_) | RedisError::NoGroup(_))) => {
            vec![Finding::red("order-stream", error.to_string(), REPAIRED_BY_SERVER)]
        }
        findings => findings?,
    };
    Ok(findings.into_iter().map(|finding| finding.of(partition)).collect())
}

async fn check(redis: &Redis, limits: &Limits) -> Result<Vec<Finding>, RedisError> {
    let groups = order_stream::groups(redis).await?;
    let Some(group) = groups.into_iter().find(|group| group.name == GROUP) else {
        let what = format!("the order stream or its consumer group {GROUP} is gone: claims are refused");
        return Ok(vec![Finding::red("order-stream", what, REPAIRED_BY_SERVER)]);
    };
    Ok(vec![
        Finding::green("order-stream", format!("the stream exists, with its consumer group {GROUP}")),
        workers(workers_connected(redis).await?, &order_stream::consumers(redis).await?),
        pending(redis, limits).await?,
        deleted(redis).await?,
        backlog(redis, &group, limits).await?,
    ])
}

/// Connections of workers; `None` if Redis does not say. If there are none, counts again after a pause: a server that
/// has just started accepts claims before its workers connect.
async fn workers_connected(redis: &Redis) -> Result<Option<u64>, RedisError> {
    match health::workers(redis).await? {
        Some(0) => {}
        known => return Ok(known),
    }
    tokio::time::sleep(config::DOCTOR_WORKERS_RETRY_DELAY).await;
    health::workers(redis).await
}

/// A working consumer with pending entries reads again after each batch: one that is idle for longer has ended.
fn workers(connected: Option<u64>, consumers: &[ConsumerInfo]) -> Finding {
    let check = "workers";
    let Some(connected) = connected else {
        return Finding::unreadable(check, "CLIENT LIST is not allowed");
    };
    if connected == 0 {
        return Finding::yellow(
            check,
            "no worker reads order events: claims are not recorded",
            START_WORKERS,
        );
    }
    let what = pluralize(connected, "connection reads order events", "connections read order events");
    let is_gone = |consumer: &&ConsumerInfo| {
        consumer.pending > 0 && consumer.idle_ms >= to_ms(config::DOCTOR_CONSUMER_IDLE)
    };
    let Some(gone) = consumers.iter().filter(is_gone).max_by_key(|consumer| consumer.idle_ms) else {
        return Finding::green(check, what);
    };
    Finding::yellow(
        check,
        format!(
            "{what}, but consumer {} holds {} and has been idle for {}",
            gone.name,
            pluralize(to_u64(gone.pending), "entry", "entries"),
            format_ms(gone.idle_ms)
        ),
        "other workers reclaim its entries after SECKILL_RECLAIM_AFTER; if they do not, their log says why",
    )
}

/// Pending entries that a worker should have reclaimed long ago.
async fn pending(redis: &Redis, limits: &Limits) -> Result<Finding, RedisError> {
    let check = "pending-entries";
    let reclaim_after = format_seconds(limits.reclaim_after.as_secs().max(1));
    let late = 2 * limits.reclaim_after + config::DOCTOR_WORKERS_RETRY_DELAY;
    let Some(idle) = health::idle_entries(redis, to_ms(late)).await? else {
        return Ok(Finding::green(
            check,
            format!("none is idle for much longer than SECKILL_RECLAIM_AFTER, {reclaim_after}"),
        ));
    };
    let what = format!(
        "consumer {}: {} not reclaimed, the oldest idle for {}; due after {reclaim_after}",
        idle.consumer,
        pluralize(idle.count as u64, "entry is", "entries are"),
        format_ms(idle.oldest_idle_ms)
    );
    let what_to_do = format!("{START_WORKERS}; if one runs, its log says why it cannot record");
    let is_red = idle.oldest_idle_ms >= to_ms(config::DOCTOR_BACKLOG_RED.max(10 * limits.reclaim_after));
    Ok(if is_red { Finding::red(check, what, what_to_do) } else { Finding::yellow(check, what, what_to_do) })
}

async fn deleted(redis: &Redis) -> Result<Finding, RedisError> {
    let check = "deleted-entries";
    let deleted = deleted_entries::find(redis).await?;
    let Some(first) = deleted.first() else {
        return Ok(Finding::green(check, "every pending entry is still in the stream"));
    };
    let what = format!(
        "{} deleted or trimmed before a worker recorded the order, the first is {first}",
        pluralize(deleted.len() as u64, "pending entry was", "pending entries were")
    );
    let what_to_do = "a running server sends the events again within a minute, `seckill reconcile --fix` at once; find the program that deletes or trims";
    Ok(Finding::red(check, what, what_to_do))
}

async fn backlog(redis: &Redis, group: &GroupInfo, limits: &Limits) -> Result<Finding, RedisError> {
    let check = "backlog";
    let events = to_u64(group.pending + order_stream::unread(redis, group).await?);
    let oldest = health::oldest_unacknowledged(redis, group).await?;
    let Some(claimed_at_ms) = oldest.and_then(|id| id.split('-').next()?.parse::<i64>().ok()) else {
        return Ok(Finding::green(check, "every order event is recorded"));
    };
    let age_ms = (server_info::now_ms(redis).await? - claimed_at_ms).max(0);
    let what = format!(
        "{}, the oldest for {}",
        pluralize(events, "order event is not recorded", "order events are not recorded"),
        format_ms(age_ms)
    );
    let what_to_do = "check that workers run and that Postgres is fast enough; more `seckill worker` processes share the work";
    Ok(if events > limits.max_backlog {
        let what =
            format!("{what}: more than SECKILL_MAX_BACKLOG, {}, so claims are refused", limits.max_backlog);
        Finding::red(check, what, what_to_do)
    } else if age_ms >= to_ms(config::DOCTOR_BACKLOG_RED) {
        Finding::red(check, what, what_to_do)
    } else if age_ms >= to_ms(config::DOCTOR_BACKLOG_YELLOW) || events > limits.max_backlog / 2 {
        Finding::yellow(check, what, what_to_do)
    } else {
        Finding::green(check, what)
    })
}

fn format_ms(ms: i64) -> String {
    format_seconds(to_u64(ms) / 1_000)
}

fn to_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn to_u64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::finding::Level;
    use super::*;

    fn consumer(name: &str, pending: i64, idle_ms: i64) -> ConsumerInfo {
        ConsumerInfo { name: name.to_owned(), pending, idle_ms }
    }

    #[rstest]
    #[case(Some(2), &[consumer("a", 0, 100), consumer("b", 7, 2_000)], Level::Green, "2 connections read")]
    #[case(Some(1), &[consumer("a", 0, 900_000)], Level::Green, "1 connection reads")]
    #[case(Some(1), &[consumer("b", 7, 50_000)], Level::Yellow, "but consumer b holds 7 entries and has been idle for 50s")]
    #[case(Some(0), &[consumer("a", 0, 100)], Level::Yellow, "no worker reads")]
    #[case(None, &[], Level::Yellow, "cannot be read")]
    fn workers_are_checked_by_their_connections_and_by_the_entries_of_gone_consumers(
        #[case] connected: Option<u64>,
        #[case] consumers: &[ConsumerInfo],
        #[case] level: Level,
        #[case] what: &str,
    ) {
        let finding = workers(connected, consumers);
        assert_eq!(finding.level, level, "{finding:?}");
        assert!(finding.what.contains(what), "{finding:?}");
    }
}
