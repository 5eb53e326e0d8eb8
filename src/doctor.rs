//! What operators get wrong, as findings: green, yellow or red, each with what to do. It asks both stores
//! directly, beside a running server or without one; it writes nothing, and waits for nobody for long. How the
//! findings are shown is `cli`'s affair; one check is one small function in the files below.

mod agreement;
mod definitions;
mod postgres;
mod redis;

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::postgres::{Postgres, PostgresError};
use crate::redis::{RedisError, RedisServer};
use crate::{config, disk};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Green,
    /// Nothing is lost yet, or it cannot be told.
    Yellow,
    /// Claims are refused, or what was answered may be lost.
    Red,
}

/// What one check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable word.
    pub check: &'static str,
    pub level: Level,
    pub what: String,
    /// What the operator should do; `None` where all is well.
    #[serde(rename = "do")]
    pub do_: Option<String>,
}

/// Settings of the running program, against which the stream is judged.
#[derive(Clone, Debug)]
pub struct Limits {
    pub reclaim_after: Duration,
    pub max_backlog: u64,
}

impl Finding {
    fn green(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, level: Level::Green, what: what.into(), do_: None }
    }

    fn yellow(check: &'static str, what: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self { check, level: Level::Yellow, what: what.into(), do_: Some(what_to_do.into()) }
    }

    fn red(check: &'static str, what: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self { level: Level::Red, ..Self::yellow(check, what, what_to_do) }
    }

    /// The server does not let us look, as on managed services.
    fn unreadable(check: &'static str, why: &str) -> Self {
        Self::yellow(check, format!("cannot be read: {why}"), "look at the service's own settings")
    }
}

/// Runs every check. A store that gives no answer is one red finding; the other's checks still run.
pub async fn examine(server: &RedisServer, postgres: &Postgres, limits: &Limits) -> Vec<Finding> {
    let (redis, postgres) = tokio::join!(redis::examine(server, limits), postgres::examine(postgres));
    let (mut findings, redis) = redis;
    let (of_postgres, postgres) = postgres;
    findings.extend(of_postgres);
    findings.extend(room(server.store_folder()));
    findings.extend(agreement::examine(redis.as_ref(), postgres).await);
    findings
}

/// A question to Postgres with a deadline of our own: one that hangs does not keep Postgres's.
async fn ask<T>(question: impl Future<Output = Result<T, PostgresError>>) -> Result<T, PostgresError> {
    match tokio::time::timeout(config::DOCTOR_QUERY_TIMEOUT, question).await {
        Ok(answer) => answer,
        Err(_) => Err(PostgresError::Transient("it gives no answer".into())),
    }
}

fn redis_is_away(server: &RedisServer, error: &RedisError) -> Finding {
    if let RedisError::NotAllowed(what) = error {
        let what_to_do = "let a user who may run that command do so, and keep it in users.acl or redis.conf";
        return Finding::red("redis-permissions", what, what_to_do);
    }
    let what_to_do = match server.store_folder() {
        Some(folder) => what_helps_a_store(folder, "redis.log", &error.to_string()),
        None => {
            "see that it runs, has finished loading, and that REDIS_URL leads to it with the right password"
                .to_owned()
        }
    };
    Finding::red("redis", error.to_string(), what_to_do)
}

fn postgres_is_away(postgres: &Postgres, error: &PostgresError) -> Finding {
    let what_to_do = match postgres.store_folder() {
        Some(folder) => what_helps_a_store(folder, "postgres.log", &error.to_string()),
        None => "see that it runs, has connections left, and that DATABASE_URL leads to it with the right password"
            .to_owned(),
    };
    Finding::red("postgres", error.to_string(), what_to_do)
}

/// An embedded store has no password: what keeps it away is in its log, or is the disk that it has no room on.
fn what_helps_a_store(folder: &Path, log: &str, error: &str) -> String {
    if disk::is_cause_of(error) {
        return format!("make room on the disk of {}: the store goes on by itself", folder.display());
    }
    format!("see why in {} and in what `seckill serve` logs", folder.join(log).display())
}

/// Room for the embedded stores; no finding for servers of the operator's own.
fn room(folder: Option<&Path>) -> Option<Finding> {
    let check = "disk";
    let folder = folder?;
    let room = disk::room(folder)?;
    if let Some(shortage) = disk::shortage(folder) {
        return Some(Finding::red(check, shortage, "make room: the stores go on by themselves"));
    }
    let (free, total) = (room.free_bytes / 1_000_000, room.total_bytes / 1_000_000);
    let what = format!("{free} of {total} MB are free for the embedded stores");
    Some(if room.free_bytes < config::DOCTOR_DISK_YELLOW_BYTES {
        Finding::yellow(check, what, "make room: without it claims are refused")
    } else {
        Finding::green(check, what)
    })
}

/// `1 entry`, `2 entries`.
fn counted(count: u64, one: &str, more: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {more}") }
}

fn seconds(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}
