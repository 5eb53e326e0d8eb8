//! Redis's settings and health. `stream` checks the streams of the partitions.

use super::disk;
use super::finding::Finding;
use super::stream::{self, Limits};
use crate::config;
use crate::redis::health::{self, Durability};
use crate::redis::server_info::Info;
use crate::redis::{Redis, RedisError, RedisServer, marker, probe, server_info};

/// Checks the server, and the stream of the partition of `server`. Returns the findings, and the connection if Redis
/// answers.
pub async fn examine(server: &RedisServer, limits: &Limits) -> (Vec<Finding>, Option<Redis>) {
    connect_and_check(server, limits, true).await
}

/// As [`examine`], without the findings about the server.
pub async fn examine_partition(server: &RedisServer, limits: &Limits) -> (Vec<Finding>, Option<Redis>) {
    connect_and_check(server, limits, false).await
}

async fn connect_and_check(
    server: &RedisServer,
    limits: &Limits,
    with_server: bool,
) -> (Vec<Finding>, Option<Redis>) {
    let redis = match server.connect().await {
        Ok(redis) => redis,
        Err(error) => return (vec![unavailable(server, &error)], None),
    };
    match check(server, &redis, limits, with_server).await {
        Ok(findings) => (findings, Some(redis)),
        Err(error) => (vec![unavailable(server, &error)], None),
    }
}

async fn check(
    server: &RedisServer,
    redis: &Redis,
    limits: &Limits,
    with_server: bool,
) -> Result<Vec<Finding>, RedisError> {
    let refusal = match probe::probe_stream(redis).await {
        // A server that is too old for this query still answers the other queries.
        Err(RedisError::Refused(_)) => None,
        probed => probed?.refusal(redis),
    };
    let mut findings: Vec<Finding> = refusal.iter().map(|error| unavailable(server, error)).collect();
    match check_all(redis, limits, with_server).await {
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

async fn check_all(redis: &Redis, limits: &Limits, with_server: bool) -> Result<Vec<Finding>, RedisError> {
    // First a query that Redis answers only when it can serve.
    marker::read(redis).await.or_else(|error| match error {
        RedisError::WrongType(_) => Ok(None),
        error => Err(error),
    })?;
    let mut findings = if with_server { check_server(redis).await? } else { Vec::new() };
    findings.extend(stream::examine(redis, limits).await?);
    Ok(findings)
}

async fn check_server(redis: &Redis) -> Result<Vec<Finding>, RedisError> {
    let mut findings = match server_info::read(redis).await? {
        Some(info) => vec![version(&info), role(&info), memory(&info), writes(&info)],
        None => ["redis-version", "redis-role", "redis-memory", "redis-writes"]
            .map(|check| Finding::unreadable(check, "INFO is not allowed"))
            .into(),
    };
    findings.push(durability(&health::durability(redis).await?));
    let [policy] = health::settings(redis, ["maxmemory-policy"]).await?;
    findings.push(eviction(policy.as_deref()));
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
