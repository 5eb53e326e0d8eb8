//! Redis's settings and health, the stream of order events, and the workers that read it.

use std::time::Duration;

use super::disk;
use super::finding::{Finding, REPAIRED_BY_SERVER, format_seconds, pluralize};
use crate::config;
use crate::redis::health::{self, Durability};
use crate::redis::keys::GROUP;
use crate::redis::order_stream::{self, ConsumerInfo, GroupInfo};
use crate::redis::server_info::Info;
use crate::redis::{Redis, RedisError, RedisServer, deleted_entries, marker, probe, server_info};

/// Settings of the running program; the state of the stream is compared with them.
#[derive(Clone, Debug)]
pub struct Limits {
    pub reclaim_after: Duration,
    /// In order events.
    pub max_backlog: u64,
}

const START_WORKERS: &str = "start `seckill worker`, or `seckill serve` with SECKILL_WORKERS of 1 or more";

/// Returns the findings, and the connection if Redis answers.
pub async fn examine(server: &RedisServer, limits: &Limits) -> (Vec<Finding>, Option<Redis>) {
    let redis = match server.connect().await {
        Ok(redis) => redis,
        Err(error) => return (vec![unavailable(server, &error)], None),
    };
    match check(server, &redis, limits).await {
        Ok(findings) => (findings, Some(redis)),
        Err(error) => (vec![unavailable(server, &error)], None),
    }
}

async fn check(server: &RedisServer, redis: &Redis, limits: &Limits) -> Result<Vec<Finding>, RedisError> {
    let refusal = match probe::probe_stream(redis).await {
        // A server that is too old for this query still answers the other queries.
        Err(RedisError::Refused(_)) => None,
        probed => probed?.refusal(redis),
    };
    let mut findings: Vec<Finding> = refusal.iter().map(|error| unavailable(server, error)).collect();
    match check_all(redis, limits).await {
        Ok(more) => findings.extend(more),
        // `refusal` already says why.
        Err(RedisError::Refused(_)) if refusal.is_some() => {}
        Err(error) => return Err(error),
    }
    Ok(findings)
}

fn unavailable(server: &RedisServer, error: &RedisError) -> Finding {
    if let RedisError::NotAllowed(what) = error {
        let what_to_do = "give Redis's user that right, and keep it in users.acl or redis.conf";
        return Finding::red("redis-permissions", what, what_to_do);
    }
    let what_to_do = match server.store_folder() {
        Some(folder) => disk::advice_for_store(folder, "redis.log", &error.to_string()),
        None => {
            "check that it runs and has finished loading, and that REDIS_URL has its address and the right password"
                .to_owned()
        }
    };
    Finding::red("redis", error.to_string(), what_to_do)
}

async fn check_all(redis: &Redis, limits: &Limits) -> Result<Vec<Finding>, RedisError> {
    // First a query that Redis answers only when it can serve.
    marker::read(redis).await.or_else(|error| match error {
        RedisError::WrongType(_) => Ok(None),
        error => Err(error),
    })?;
    let mut findings = match server_info::read(redis).await? {
        Some(info) => vec![version(&info), role(&info), memory(&info), writes(&info)],
        None => ["redis-version", "redis-role", "redis-memory", "redis-writes"]
            .map(|check| Finding::unreadable(check, "INFO is not allowed"))
            .into(),
    };
    findings.push(durability(&health::durability(redis).await?));
    let [policy] = health::settings(redis, ["maxmemory-policy"]).await?;
    findings.push(eviction(policy.as_deref()));
    match check_stream(redis, limits).await {
        Ok(of_stream) => findings.extend(of_stream),
        Err(error @ RedisError::Refused(_)) => {
            findings.push(Finding::unreadable("order-stream", &error.to_string()));
        }
        Err(error @ (RedisError::WrongType(_) | RedisError::NoGroup(_))) => {
            findings.push(Finding::red("order-stream", error.to_string(), REPAIRED_BY_SERVER));
        }
        Err(error) => return Err(error),
    }
    Ok(findings)
}

fn version(info: &Info) -> Finding {
    let version = info.text("redis_version");
    let major: Option<u32> = version.split('.').next().and_then(|major| major.parse().ok());
    match major {
        Some(major) if major >= config::REDIS_MIN_MAJOR => Finding::green("redis-version", version),
        Some(_) => Finding::red(
            "redis-version",
            format!("{version}: too old for the scripts and stream commands of this program"),
            format!("upgrade to {}.0 or later", config::REDIS_MIN_MAJOR),
        ),
        None => Finding::unreadable("redis-version", "INFO does not say"),
    }
}

fn role(info: &Info) -> Finding {
    match info.text("role").as_str() {
        "master" => Finding::green("redis-role", "master"),
        role => Finding::red(
            "redis-role",
            format!("{role}: a replica of another server, which accepts no claims"),
            "set REDIS_URL to the address of the master",
        ),
    }
}

fn durability(durability: &Durability) -> Finding {
    let check = "redis-durability";
    match durability {
        Durability::Always => Finding::green(check, "appendonly yes, appendfsync always"),
        Durability::Weaker(setting) => Finding::red(
            check,
            format!(
                "{setting}: accepted claims may be lost when Redis is killed, so new coupons get durability postgres: \
                 their claims are answered after the commit"
            ),
            "set appendonly yes and appendfsync always, by CONFIG SET and in redis.conf",
        ),
        Durability::Unreadable => Finding::yellow(
            check,
            "cannot be read: accepted claims survive a crash of Redis only with the right settings, so new coupons get \
             durability postgres: their claims are answered after the commit",
            "check that the service runs with appendonly yes and appendfsync always",
        ),
    }
}

fn eviction(policy: Option<&str>) -> Finding {
    let check = "redis-eviction";
    let what_to_do = "set maxmemory-policy noeviction, by CONFIG SET and in redis.conf";
    match policy {
        Some("noeviction") => Finding::green(check, "noeviction"),
        Some(policy) if policy.starts_with("volatile-") => Finding::yellow(
            check,
            format!(
                "{policy}: our keys have no time to live and stay, but keys of other programs here may be evicted"
            ),
            what_to_do,
        ),
        Some(policy) => {
            Finding::red(check, format!("{policy}: a full Redis evicts claims and stock"), what_to_do)
        }
        None => Finding::unreadable(check, "CONFIG GET is not allowed"),
    }
}

fn memory(info: &Info) -> Finding {
    let check = "redis-memory";
    let limit = info.number("maxmemory").filter(|&bytes| bytes > 0);
    let (Some(used), Some(limit_bytes)) = (
        info.number("used_memory"),
        limit.or_else(|| info.number("total_system_memory")).filter(|&bytes| bytes > 0),
    ) else {
        return Finding::unreadable(check, "INFO does not say");
    };
    let mb = |bytes: u64| bytes.div_ceil(1 << 20);
    let limit = if limit.is_some() { "maxmemory" } else { "the machine's memory, maxmemory is not set" };
    let percent = used.saturating_mul(100) / limit_bytes;
    let what = format!("{percent} % in use: {} of {} MB ({limit})", mb(used), mb(limit_bytes));
    let what_to_do = "raise maxmemory or give the machine more: a full Redis refuses claims";
    match percent {
        0..config::REDIS_MEMORY_YELLOW_PERCENT => Finding::green(check, what),
        config::REDIS_MEMORY_YELLOW_PERCENT..config::REDIS_MEMORY_RED_PERCENT => {
            Finding::yellow(check, what, what_to_do)
        }
        _ => Finding::red(check, what, what_to_do),
    }
}

/// Whether the last writes to disk succeeded.
fn writes(info: &Info) -> Finding {
    let check = "redis-writes";
    let failed = |name: &str| info.text(name) == "err";
    let what_to_do = "see Redis's log: the disk may be full, or Redis may not write to the folder";
    if failed("aof_last_write_status") {
        Finding::red(check, "the last write to the append-only file failed: Redis refuses writes", what_to_do)
    } else if failed("aof_last_bgrewrite_status") {
        Finding::yellow(check, "the last rewrite of the append-only file failed: the file grows", what_to_do)
    } else if failed("rdb_last_bgsave_status") {
        Finding::yellow(check, "the last snapshot failed: Redis may refuse writes", what_to_do)
    } else {
        Finding::green(check, "the last writes to disk succeeded")
    }
}

async fn check_stream(redis: &Redis, limits: &Limits) -> Result<Vec<Finding>, RedisError> {
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
