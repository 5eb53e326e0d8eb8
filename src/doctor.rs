//! What operators get wrong, as findings: green, yellow or red, each with what to do. It asks both stores
//! directly, beside a running server or without one; it writes nothing, and waits for nobody for long. How the
//! findings are shown is `cli`'s affair; one check is one small function in the files below.

mod agreement;
mod definitions;
mod postgres;
mod redis;

use std::future::Future;
use std::time::Duration;

use serde::Serialize;

use crate::config;
use crate::postgres::{Postgres, PostgresError};
use crate::redis::{RedisError, RedisServer};

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
    findings.extend(agreement::examine(redis.as_ref(), postgres).await);
    findings
}

/// A question to Postgres with a deadline of our own: one that hangs does not keep Postgres's.
async fn ask<T>(question: impl Future<Output = Result<T, PostgresError>>) -> Result<T, PostgresError> {
    match tokio::time::timeout(config::DOCTOR_PATIENCE, question).await {
        Ok(answer) => answer,
        Err(_) => Err(PostgresError::Transient("it gives no answer".into())),
    }
}

fn redis_is_away(error: &RedisError) -> Finding {
    let what_to_do =
        "see that it runs, has finished loading, and that REDIS_URL leads to it with the right password";
    Finding::red("redis", error.to_string(), what_to_do)
}

fn postgres_is_away(error: &PostgresError) -> Finding {
    let what_to_do =
        "see that it runs, has connections left, and that DATABASE_URL leads to it with the right password";
    Finding::red("postgres", error.to_string(), what_to_do)
}

/// `1 entry`, `2 entries`.
fn counted(count: u64, one: &str, more: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {more}") }
}

fn seconds(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}
