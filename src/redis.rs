//! Everything that knows fred: one connection that never reconnects by itself, and the classes of its
//! errors. Key names, scripts and stream commands are the files below.
//!
//! A connection that silently reconnects could send a claim to a server that nobody has looked at (a
//! promoted replica, a flushed Redis). Here a broken connection stays broken; whoever owns it makes a
//! new one and looks first.

pub mod coupon_hash;
pub mod health;
pub mod info;
pub mod keys;
pub mod order_stream;
pub mod probe;
pub mod rebuild;
pub mod reclaim;
pub mod scripts;
pub mod stored;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fred::clients::Client;
use fred::error::ErrorKind;
use fred::interfaces::ClientLike;
use fred::types::config::{Config, ConnectionConfig, PerformanceConfig, ServerConfig, TcpConfig};
use fred::types::{CustomCommand, Value};
use tokio_util::sync::CancellationToken;

use crate::config::{self, StoreAddresses};
use crate::disk;
use crate::domain::CouponId;
use keys::Keys;

/// Where Redis is and how its keys are named; makes connections.
#[derive(Clone)]
pub struct RedisServer {
    config: Config,
    /// Of its Unix socket.
    folder: Option<PathBuf>,
    pub keys: Keys,
}

/// One connection. Clones share it. Dropping the last one closes it.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    /// Cancelled when the connection has ended: fred would keep a command for it until its deadline.
    closed: CancellationToken,
    pub keys: Keys,
    /// By which Redis's ACL knows this program.
    user: Arc<str>,
}

/// What went wrong with a command, by what it means for the caller.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RedisError {
    /// No answer: whether the command ran is not known.
    #[error("Redis gave no answer: {0}")]
    Unknown(String),
    /// Refused whole or not sent, nothing was written; worth trying again later.
    #[error("Redis cannot serve now: {0}")]
    Busy(String),
    /// Redis restarted, failed over or was flushed of its scripts.
    #[error("Redis does not know our script")]
    NoScript,
    #[error("the consumer group is gone: {0}")]
    NoGroup(String),
    #[error("a key of ours holds another type: {0}")]
    WrongType(String),
    #[error("Redis refused the command: {0}")]
    Refused(String),
    /// The user may not run what the program sends.
    #[error("{0}")]
    NotAllowed(String),
    #[error("unexpected reply from Redis: {0}")]
    Reply(String),
}

impl RedisError {
    /// Whether Redis reads as before and refuses only to write: full, short of replicas, no disk.
    #[must_use]
    pub fn is_about_writes(&self) -> bool {
        let words = ["OOM", "NOREPLICAS", "MISCONF"];
        matches!(self, Self::Busy(details) if words.iter().any(|word| details.starts_with(word)))
    }

    /// Whether the command is known to have written nothing: Redis refused it whole, before it ran. A script that
    /// fails half-way says where it stood.
    #[must_use]
    pub fn wrote_nothing(&self) -> bool {
        match self {
            Self::NoScript | Self::NotAllowed(_) => true,
            Self::Busy(details)
            | Self::NoGroup(details)
            | Self::WrongType(details)
            | Self::Refused(details) => !details.contains("user_script"),
            Self::Unknown(_) | Self::Reply(_) => false,
        }
    }
}

impl RedisServer {
    /// # Errors
    /// For an address that is no `redis://`, `rediss://` or `redis+unix://` one.
    pub fn new(addresses: &StoreAddresses, prefix: &str) -> anyhow::Result<Self> {
        let url = addresses.redis_url.as_str();
        let scheme = url.split("://").next().unwrap_or_default();
        match scheme {
            "redis" | "rediss" | "redis+unix" => {}
            s if s.contains("sentinel") || s.contains("cluster") => anyhow::bail!(
                "REDIS_URL: `{s}://` is not supported yet: give one server as redis://, rediss:// or redis+unix://"
            ),
            _ => anyhow::bail!("REDIS_URL must start with redis://, rediss:// or redis+unix://"),
        }
        let mut config = Config::from_url(url).context("REDIS_URL is no valid address")?;
        let socket = addresses.redis_socket()?;
        let folder = socket.as_ref().and_then(|path| path.parent()).map(Path::to_owned);
        if let Some(path) = socket {
            // fred takes the path as it stands in the address, percent signs and all.
            config.server = ServerConfig::new_unix_socket(path);
        }
        config.fail_fast = true;
        Ok(Self { config, folder, keys: Keys::new(prefix) })
    }

    /// That of an embedded store, whose disk and log may tell why it gives no answer.
    #[must_use]
    pub fn store_folder(&self) -> Option<&Path> {
        self.folder.as_deref().filter(|folder| disk::is_embedded_store(folder))
    }

    /// # Errors
    /// When the server cannot be reached within the connection's time-out.
    pub async fn connect(&self) -> Result<Redis, RedisError> {
        self.connect_with_timeout(config::REDIS_COMMAND_TIMEOUT).await
    }

    /// A worker's connection, for blocking reads, which nothing else should share. CLIENT LIST shows it by
    /// name: up to Redis 7.0 a consumer that finds nothing to read leaves no other trace.
    pub async fn connect_blocking(&self) -> Result<Redis, RedisError> {
        let redis =
            self.connect_with_timeout(config::REDIS_BLOCK_TIMEOUT + config::REDIS_COMMAND_TIMEOUT).await?;
        match redis.call("CLIENT", vec!["SETNAME".into(), (&*redis.keys.worker).into()]).await {
            // Where it is forbidden, only `doctor` knows less.
            Ok(_) | Err(RedisError::Refused(_)) => Ok(redis),
            Err(error) => Err(error),
        }
    }

    async fn connect_with_timeout(&self, command_timeout: Duration) -> Result<Redis, RedisError> {
        let connected = self.try_to_connect(command_timeout).await;
        connected.map_err(|error| match (error, self.store_folder().and_then(disk::shortage)) {
            (RedisError::Unknown(why), Some(shortage)) => RedisError::Unknown(format!("{why}; {shortage}")),
            (error, _) => error,
        })
    }

    async fn try_to_connect(&self, command_timeout: Duration) -> Result<Redis, RedisError> {
        let performance =
            PerformanceConfig { default_command_timeout: command_timeout, ..PerformanceConfig::default() };
        let connection = ConnectionConfig {
            connection_timeout: config::REDIS_CONNECT_TIMEOUT,
            internal_command_timeout: config::REDIS_CONNECT_TIMEOUT,
            max_command_attempts: 1,
            tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
            ..ConnectionConfig::default()
        };
        let client = Client::new(self.config.clone(), Some(performance), Some(connection), None);
        let connection = tokio::time::timeout(config::REDIS_CONNECT_TIMEOUT, client.init())
            .await
            .map_err(|_| RedisError::Unknown("connecting took too long".into()))?
            .map_err(|error| classify(&error))?;
        let closed = CancellationToken::new();
        let end = closed.clone().drop_guard();
        tokio::spawn(async move {
            if let Ok(Err(error)) = connection.await {
                tracing::debug!("a connection to Redis has ended: {error}");
            }
            drop(end);
        });
        let user = self.config.username.as_deref().unwrap_or("default").into();
        Ok(Redis { client, closed, keys: self.keys.clone(), user })
    }
}

impl Redis {
    /// Sends one command; its deadline is the connection's.
    pub(crate) async fn call(&self, command: &'static str, args: Vec<Value>) -> Result<Value, RedisError> {
        if self.closed.is_cancelled() {
            return Err(RedisError::Busy("the connection is closed".into()));
        }
        let command = CustomCommand::new_static(command, None::<u16>, false);
        // Boxed: fred's futures are large, and every caller's holds this one.
        let reply = Box::pin(self.client.custom(command, args));
        match self.closed.run_until_cancelled(reply).await {
            Some(reply) => reply.map_err(|error| classify(&error)),
            None => Err(RedisError::Unknown("the connection is closed".into())),
        }
    }

    /// Keys of a script about one coupon: epoch marker, order stream, coupon hash, claims hash.
    fn coupon_keys(&self, coupon: &CouponId) -> [String; 4] {
        let keys = &self.keys;
        [keys.epoch.to_string(), keys.orders.to_string(), keys.coupon(coupon), keys.claims(coupon)]
    }
}

/// The one place where an error of Redis is classified.
fn classify(error: &fred::error::Error) -> RedisError {
    let details = plain(error.details());
    match details.split_whitespace().next().unwrap_or_default() {
        "NOSCRIPT" => RedisError::NoScript,
        // A reader that was blocked when the stream went is told so in a word of its own.
        "NOGROUP" | "UNBLOCKED" => RedisError::NoGroup(details),
        "WRONGTYPE" => RedisError::WrongType(details),
        "OOM" | "LOADING" | "BUSY" | "READONLY" | "MASTERDOWN" | "NOREPLICAS" | "MISCONF" | "CLUSTERDOWN" => {
            RedisError::Busy(details)
        }
        _ => match error.kind() {
            ErrorKind::IO
            | ErrorKind::Timeout
            | ErrorKind::Canceled
            | ErrorKind::Routing
            | ErrorKind::Tls => RedisError::Unknown(details),
            ErrorKind::Backpressure => RedisError::Busy(details),
            ErrorKind::Parse | ErrorKind::Protocol => RedisError::Reply(details),
            _ => RedisError::Refused(details),
        },
    }
}

/// fred tells of a system error as Rust prints it: `Os { code: 111, …, message: "Connection refused" }`.
fn plain(details: &str) -> String {
    let message = details.starts_with("Os {").then(|| details.split('"').nth(1)).flatten();
    message.unwrap_or(details).trim_end_matches('.').to_owned()
}

/// Arguments of EVAL or EVALSHA: source or digest, the keys with their number, whatever else.
pub(crate) fn script_args<K: Into<Value>, A: Into<Value>>(
    script: &'static str,
    keys: impl IntoIterator<Item = K>,
    more: impl IntoIterator<Item = A>,
) -> Vec<Value> {
    let keys: Vec<Value> = keys.into_iter().map(Into::into).collect();
    let count = i64::try_from(keys.len()).unwrap_or(i64::MAX);
    let mut args: Vec<Value> = vec![script.into(), count.into()];
    args.extend(keys);
    args.extend(more.into_iter().map(Into::into));
    args
}

/// The reply's elements, or an error that names what was expected.
pub(crate) fn array(value: Value, what: &str) -> Result<Vec<Value>, RedisError> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Null => Ok(Vec::new()),
        other => Err(RedisError::Reply(format!("{what}: {:?} instead of an array", other.kind()))),
    }
}

pub(crate) fn integer(value: &Value, what: &str) -> Result<i64, RedisError> {
    value
        .as_i64()
        .ok_or_else(|| RedisError::Reply(format!("{what}: {:?} instead of an integer", value.kind())))
}

/// Text that may be absent; bytes that are no UTF-8 count as absent.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::Integer(number) => Some(number.to_string()),
        other => other.as_str().map(std::borrow::Cow::into_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_was_refused_before_it_ran_has_written_nothing() {
        let oom = "OOM command not allowed when used memory > 'maxmemory'.".to_owned();
        let half_way = "ERR the ID is too small script: 5f1c, on @user_script:83.".to_owned();
        assert!(RedisError::Busy(oom.clone()).wrote_nothing());
        assert!(RedisError::NoScript.wrote_nothing());
        assert!(RedisError::Refused("NOPERM no permission".into()).wrote_nothing());
        assert!(!RedisError::Busy(format!("{oom} script: 5f1c, on @user_script:83.")).wrote_nothing());
        assert!(!RedisError::Refused(half_way).wrote_nothing());
        assert!(!RedisError::Unknown("timed out".into()).wrote_nothing());
        assert!(!RedisError::Reply("a map".into()).wrote_nothing());
    }

    #[test]
    fn errors_are_told_in_words() {
        let refused = r#"Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }"#;
        assert_eq!(plain(refused), "Connection refused");
        assert_eq!(plain(r#"ERR unknown command "X""#), r#"ERR unknown command "X""#);
        assert_eq!(plain("LOADING Redis is loading."), "LOADING Redis is loading");
    }
}
