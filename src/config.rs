//! Every setting with its flag, environment variable and default. Limits that are not settings are in
//! `config/limits.rs`; `data_dir` reads secrets on disk.

mod address;
mod credential;
mod duration;
mod limits;
mod number;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

pub use address::{is_loopback, parse_listen};
use anyhow::Context;
use clap::Args;
use clap::builder::{NonEmptyStringValueParser as NonEmpty, TypedValueParser};
pub use credential::Credential;
use credential::{parse_admin_token, parse_jwt_audience, parse_jwt_issuer, parse_jwt_secret};
pub use duration::parse_duration;
pub use limits::*;
pub use number::parse_whole;

/// The addresses of the stores, the prefix of Redis's keys and the schema in Postgres.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Stores")]
pub struct StoreSettings {
    /// Folder of the embedded stores, their sockets and generated secrets [default: ./data]
    #[arg(long, env = "SECKILL_DATA_DIR", value_name = "DIR", value_parser = NonEmpty::new().map(PathBuf::from))]
    pub data_dir: Option<PathBuf>,

    /// redis://, rediss://, redis+unix://, redis-cluster:// or redis-sentinel:// address; unset together with
    /// DATABASE_URL: embedded stores
    #[arg(long, env = "REDIS_URL", value_name = "URL", hide_env_values = true, value_parser = NonEmpty::new())]
    pub redis_url: Option<String>,

    /// postgres:// address of a session connection (not a transaction pooler). PGPASSWORD, PGPASSFILE, PGSSLMODE,
    /// PGSSLROOTCERT, PGSSLCERT and PGSSLKEY add what the address leaves out; other variables of libpq are ignored
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true, value_parser = NonEmpty::new())]
    pub database_url: Option<String>,

    /// `external` refuses to start unless both addresses are set
    #[arg(long, env = "SECKILL_STORES", value_name = "KIND")]
    pub stores: Option<StoresKind>,

    /// Prefix of every Redis key
    #[arg(long, env = "SECKILL_REDIS_PREFIX", default_value = "seckill", value_name = "WORD", value_parser = parse_redis_prefix)]
    pub redis_prefix: String,

    /// Postgres schema of all tables; created if absent
    #[arg(long, env = "SECKILL_DB_SCHEMA", default_value = "seckill", value_name = "WORD", value_parser = parse_db_schema)]
    pub db_schema: String,

    /// Partitions of the sale: each has a stream and a fence of its own. New ones take new coupons; none is removed
    #[arg(long, env = "SECKILL_PARTITIONS", default_value_t = 1, value_name = "N", value_parser = |text: &str| parse_whole(text, 1..=PARTITIONS_MAX))]
    pub partitions: usize,

    /// Connections to Postgres that the process opens at most, with one more during a rebuild
    #[arg(long, env = "SECKILL_POSTGRES_CONNECTIONS", default_value_t = POSTGRES_CONNECTIONS_DEFAULT, value_name = "N", value_parser = |text: &str| parse_whole(text, POSTGRES_CONNECTIONS_MIN..=POSTGRES_CONNECTIONS_MAX))]
    pub postgres_connections: u32,
}

/// Who runs Redis and Postgres: this program or the operator.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoresKind {
    Embedded,
    External,
}

/// Addresses of a running Redis and Postgres, embedded or not.
#[derive(Clone)]
pub struct StoreAddresses {
    /// `redis://`, `rediss://` or `redis+unix:///path/to.sock`
    pub redis_url: String,
    /// `postgres://…`, or `postgres://user@/db?host=/socket/dir`
    pub database_url: String,
}

impl StoreSettings {
    /// The external addresses, or `None` for embedded stores.
    ///
    /// # Errors
    /// When only one address is set, or when `SECKILL_STORES` contradicts the addresses: a missing variable must never
    /// start a second, empty sale.
    pub fn external_addresses(&self) -> anyhow::Result<Option<StoreAddresses>> {
        match (&self.redis_url, &self.database_url, self.stores) {
            (Some(_), Some(_), Some(StoresKind::Embedded)) => anyhow::bail!(
                "SECKILL_STORES=embedded, but REDIS_URL and DATABASE_URL are set: unset them, or SECKILL_STORES"
            ),
            (Some(redis_url), Some(database_url), _) => {
                Ok(Some(StoreAddresses { redis_url: redis_url.clone(), database_url: database_url.clone() }))
            }
            (None, None, Some(StoresKind::External)) => anyhow::bail!(
                "SECKILL_STORES=external, but neither REDIS_URL nor DATABASE_URL is set: set both"
            ),
            (None, None, _) => Ok(None),
            (Some(_), None, _) => anyhow::bail!(
                "REDIS_URL is set but DATABASE_URL is not: set both for your own servers, or neither for embedded stores"
            ),
            (None, Some(_), _) => anyhow::bail!(
                "DATABASE_URL is set but REDIS_URL is not: set both for your own servers, or neither for embedded stores"
            ),
        }
    }
}

impl StoreAddresses {
    /// The path of a `redis+unix://` address; `None` for another scheme. Decodes percent signs, since fred does not.
    ///
    /// # Errors
    /// When the address is not a URL.
    pub fn redis_socket(&self) -> anyhow::Result<Option<PathBuf>> {
        let url = url::Url::parse(&self.redis_url).context("REDIS_URL is not a URL")?;
        let path: Vec<u8> = percent_encoding::percent_decode_str(url.path()).collect();
        Ok((url.scheme() == "redis+unix").then(|| OsString::from_vec(path).into()))
    }
}

/// Bearer credentials. With embedded stores, the program generates those that are not set into the data directory.
#[derive(Args, Clone)]
#[command(next_help_heading = "Credentials")]
pub struct CredentialSettings {
    /// Bearer token of the admin API [default: generated into <data>/admin-token]
    #[arg(long, env = "SECKILL_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true, value_parser = parse_admin_token)]
    pub admin_token: Option<String>,

    /// HS256 secret of user tokens, at least 32 bytes [default: generated into <data>/jwt-secret]
    #[arg(long, env = "SECKILL_JWT_SECRET", value_name = "SECRET", hide_env_values = true, value_parser = parse_jwt_secret)]
    pub jwt_secret: Option<String>,

    /// Required `aud` of user tokens [default: not checked]
    #[arg(long, env = "SECKILL_JWT_AUDIENCE", value_name = "AUD", value_parser = parse_jwt_audience)]
    pub jwt_audience: Option<String>,

    /// Required `iss` of user tokens [default: not checked]
    #[arg(long, env = "SECKILL_JWT_ISSUER", value_name = "ISS", value_parser = parse_jwt_issuer)]
    pub jwt_issuer: Option<String>,
}

/// How workers share the stream.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Workers")]
pub struct WorkerSettings {
    /// Consumers in this process, and one more while there is a backlog; 0 for HTTP only
    #[arg(long, env = "SECKILL_WORKERS", default_value_t = 1, value_name = "N", value_parser = |text: &str| parse_whole(text, 0..=WORKERS_MAX))]
    pub workers: u16,

    /// How long an entry may stay unacknowledged before another worker reclaims it
    #[arg(long, env = "SECKILL_RECLAIM_AFTER", default_value = RECLAIM_AFTER_DEFAULT, value_name = "DURATION", value_parser = parse_reclaim_after)]
    pub reclaim_after: Duration,

    /// How many entries the stream keeps at most for consumer groups that are behind `order-writers`
    #[arg(long, env = "SECKILL_STREAM_KEEP", default_value_t = STREAM_KEEP_DEFAULT_ENTRIES, value_name = "ENTRIES", value_parser = parse_count)]
    pub stream_keep: u64,
}

/// Settings of `serve` in addition to stores, credentials and workers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "HTTP")]
pub struct HttpSettings {
    /// HTTP address, such as 127.0.0.1:8080 or [::]:8080; port 0 picks a free one
    #[arg(long, env = "SECKILL_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR", value_parser = parse_listen)]
    pub listen: SocketAddr,

    /// Claims get 503 while more order events than this are unrecorded
    #[arg(long, env = "SECKILL_MAX_BACKLOG", default_value_t = MAX_BACKLOG_DEFAULT_EVENTS, value_name = "EVENTS", value_parser = parse_count)]
    pub max_backlog: u64,

    #[command(flatten)]
    pub answers: AnswerSettings,
}

/// When claims are answered.
#[derive(Args, Clone, Copy, Debug)]
pub struct AnswerSettings {
    /// The least that must have a claim before it is answered: `redis`; `replica`, Redis and one of its replicas;
    /// `postgres`, after the commit. A coupon's own durability may ask for more
    #[arg(long, env = "SECKILL_ANSWER_AFTER", default_value = "redis", value_name = "STORE")]
    pub answer_after: AnswerAfter,
}

/// What has a claim when it is answered.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerAfter {
    Redis,
    Replica,
    Postgres,
}

/// Settings of `worker` in addition to stores and workers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Monitoring")]
pub struct MonitoringSettings {
    /// Address of a worker's /metrics, /livez and /readyz, such as 127.0.0.1:9101 [default: none]
    #[arg(long, env = "SECKILL_METRICS_LISTEN", value_name = "ADDR", value_parser = parse_listen)]
    pub metrics_listen: Option<SocketAddr>,

    /// Bearer token of the admin API, which /metrics requires from other machines [default: read from
    /// <data>/admin-token]
    #[arg(long, env = "SECKILL_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true, value_parser = parse_admin_token)]
    pub admin_token: Option<String>,
}

/// Settings of the running program that `doctor` compares the stream with.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits of the running program")]
pub struct DoctorSettings {
    /// How long an entry may stay unacknowledged before another worker reclaims it
    #[arg(long, env = "SECKILL_RECLAIM_AFTER", default_value = RECLAIM_AFTER_DEFAULT, value_name = "DURATION", value_parser = parse_reclaim_after)]
    pub reclaim_after: Duration,

    /// Claims get 503 while more order events than this are unrecorded
    #[arg(long, env = "SECKILL_MAX_BACKLOG", default_value_t = MAX_BACKLOG_DEFAULT_EVENTS, value_name = "EVENTS", value_parser = parse_count)]
    pub max_backlog: u64,

    #[command(flatten)]
    pub answers: AnswerSettings,
}

/// Logs go to stderr.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub struct LogSettings {
    /// tracing filter, such as `info` or `seckill=debug,info`
    #[arg(long, env = "SECKILL_LOG", default_value = "info", value_name = "FILTER", value_parser = NonEmpty::new(), global = true)]
    pub log: String,

    /// `json` for machines
    #[arg(long, env = "SECKILL_LOG_FORMAT", default_value = "text", value_name = "FORMAT", global = true)]
    pub log_format: LogFormat,
}

/// The format of log lines.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// How commands such as `coupon` and `claim` reach a running server.
#[derive(Args, Clone)]
pub struct ServerSettings {
    /// Address of the running server
    #[arg(long, env = "SECKILL_URL", default_value = "http://127.0.0.1:8080", value_name = "URL", value_parser = NonEmpty::new())]
    pub url: String,

    /// Bearer token of the admin API [default: read from <data>/admin-token]
    #[arg(long, env = "SECKILL_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true, value_parser = parse_admin_token)]
    pub admin_token: Option<String>,

    /// Data directory of the server, with its generated secrets [default: ./data]
    #[arg(long, env = "SECKILL_DATA_DIR", value_name = "DIR", value_parser = NonEmpty::new().map(PathBuf::from))]
    pub data_dir: Option<PathBuf>,
}

fn parse_count(text: &str) -> Result<u64, String> {
    parse_whole(text, 0..=u64::MAX)
}

fn parse_reclaim_after(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < RECLAIM_AFTER_MIN || duration > RECLAIM_AFTER_MAX {
        return Err("must be between 100ms and 1h, such as 5s".into());
    }
    Ok(duration)
}

fn parse_redis_prefix(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
    if text.is_empty() || text.len() > REDIS_PREFIX_MAX_BYTES || !text.chars().all(allowed) {
        return Err("must be 1 to 64 letters, digits, `_`, `-`, `.` or `:`".into());
    }
    Ok(text.to_owned())
}

fn parse_db_schema(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if !starts_well
        || text.len() > DB_SCHEMA_MAX_BYTES
        || !text.chars().all(allowed)
        || text.starts_with("pg_")
    {
        return Err(
            "must be 1 to 63 lower-case letters, digits or `_`, not starting with a digit or `pg_`".into()
        );
    }
    Ok(text.to_owned())
}
