//! Connections to Redis. A connection never reconnects by itself: it could then send a claim to a server that the fence
//! has not probed (a promoted replica, a flushed Redis). The owner of a broken connection makes a new one and probes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::{Config, ConnectionConfig, PerformanceConfig, ServerConfig, TcpConfig};
use fred::types::{CustomCommand, Value};
use tokio_util::sync::CancellationToken;

use super::keys::Keys;
use super::{RedisError, classify};
use crate::config::{self, StoreAddresses};
use crate::disk;
use crate::domain::{CouponId, Partition};

/// The address of Redis and the names of its keys; makes connections.
#[derive(Clone)]
pub struct RedisServer {
    config: Config,
    /// The folder of Redis's Unix socket.
    folder: Option<PathBuf>,
    pub keys: Keys,
}

/// A connection, which clones share. A drop of the last clone closes the connection.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    /// Cancelled when the connection has ended: without this, fred would keep a command until its deadline.
    closed: CancellationToken,
    pub keys: Keys,
    /// The name of the Redis user that sends the commands.
    pub(super) user: Arc<str>,
}

impl RedisServer {
    /// # Errors
    /// For an address that does not begin with `redis://`, `rediss://` or `redis+unix://`.
    pub fn new(addresses: &StoreAddresses, prefix: &str, partition: Partition) -> anyhow::Result<Self> {
        let url = addresses.redis_url.as_str();
        let scheme = url.split("://").next().unwrap_or_default();
        match scheme {
            "redis" | "rediss" | "redis+unix" => {}
            s if s.contains("sentinel") || s.contains("cluster") => anyhow::bail!(
                "REDIS_URL: `{s}://` is not supported yet: give one server as redis://, rediss:// or redis+unix://"
            ),
            _ => anyhow::bail!("REDIS_URL must start with redis://, rediss:// or redis+unix://"),
        }
        let mut config = Config::from_url(url).context("REDIS_URL is not a valid address")?;
        let socket = addresses.redis_socket()?;
        let folder = socket.as_ref().and_then(|path| path.parent()).map(Path::to_owned);
        if let Some(path) = socket {
            // fred does not decode percent signs in the path.
            config.server = ServerConfig::new_unix_socket(path);
        }
        config.fail_fast = true;
        Ok(Self { config, folder, keys: Keys::new(prefix, partition) })
    }

    /// The same server, with the keys of this partition.
    #[must_use]
    pub fn of(&self, partition: Partition) -> Self {
        Self { keys: self.keys.of(partition), ..self.clone() }
    }

    /// The folder of an embedded Redis: its disk and log may show why it does not answer. `None` for other servers.
    #[must_use]
    pub fn store_folder(&self) -> Option<&Path> {
        self.folder.as_deref().filter(|folder| disk::is_embedded_store(folder))
    }

    /// # Errors
    /// If the server cannot be reached within `REDIS_CONNECT_TIMEOUT`.
    pub async fn connect(&self) -> Result<Redis, RedisError> {
        self.connect_with_timeout(config::REDIS_COMMAND_TIMEOUT).await
    }

    /// A separate connection of a worker, for blocking reads. The connection has a name for CLIENT LIST: up to Redis
    /// 7.0 nothing else shows a consumer that finds no entries.
    ///
    /// # Errors
    /// As `connect`.
    pub async fn connect_blocking(&self) -> Result<Redis, RedisError> {
        let redis =
            self.connect_with_timeout(config::REDIS_BLOCK_TIMEOUT + config::REDIS_COMMAND_TIMEOUT).await?;
        match redis.call("CLIENT", vec!["SETNAME".into(), (&*redis.keys.worker).into()]).await {
            // Without the name, `doctor` cannot count the workers.
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
    /// Sends one command, with the connection's timeout.
    pub(crate) async fn call(&self, command: &'static str, args: Vec<Value>) -> Result<Value, RedisError> {
        if self.closed.is_cancelled() {
            return Err(RedisError::Busy("the connection is closed".into()));
        }
        let command = CustomCommand::new_static(command, None::<u16>, false);
        // Boxed: fred's futures are large, and the future of each caller holds this one.
        let reply = Box::pin(self.client.custom(command, args));
        match self.closed.run_until_cancelled(reply).await {
            Some(reply) => reply.map_err(|error| classify(&error)),
            None => Err(RedisError::Unknown("the connection is closed".into())),
        }
    }

    /// Keys of a script about one coupon: epoch marker, order stream, coupon hash, claims hash.
    pub(super) fn coupon_keys(&self, coupon: &CouponId) -> [String; 4] {
        let keys = &self.keys;
        [keys.epoch.to_string(), keys.orders.to_string(), keys.coupon(coupon), keys.claims(coupon)]
    }

    /// The keys of the scripts that serve or write a waiting list.
    pub(super) fn line_keys(&self, coupon: &CouponId) -> [String; 6] {
        let [epoch, orders, hash, claims] = self.coupon_keys(coupon);
        [epoch, orders, hash, claims, self.keys.waitlist(coupon), self.keys.waitlist_orders(coupon)]
    }
}
