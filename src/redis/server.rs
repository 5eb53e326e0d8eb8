//! Connections to Redis. A connection never reconnects by itself: it could then send a claim to a server that the fence
//! has not probed (a promoted replica, a flushed Redis). The owner of a broken connection makes a new one and probes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fred::types::Value;
use fred::types::config::Config;
use fred::util::redis_keyslot;

use super::RedisError;
use super::connection::Connection;
use super::keys::Keys;
use super::topology::{Address, Report as TopologyReport, Topology};
use crate::config::{self, StoreAddresses};
use crate::disk;
use crate::domain::{CouponId, Partition};

/// The address of Redis and the names of its keys; makes connections.
#[derive(Clone)]
pub struct RedisServer {
    /// With a cluster or Sentinels, the address comes from `topology` at each connect.
    config: Config,
    topology: Arc<Topology>,
    /// The folder of Redis's Unix socket.
    folder: Option<PathBuf>,
    pub keys: Keys,
}

/// A connection, which clones share. A drop of the last clone closes the connection.
#[derive(Clone)]
pub struct Redis {
    connection: Connection,
    pub keys: Keys,
    /// The name of the Redis user that sends the commands.
    pub(super) user: Arc<str>,
}

impl RedisServer {
    /// # Errors
    /// For an address of another kind, or without a part that is needed.
    pub fn new(addresses: &StoreAddresses, prefix: &str, partition: Partition) -> anyhow::Result<Self> {
        let Address { config, topology, socket } = Address::read(addresses)?;
        let folder = socket.as_ref().and_then(|path| path.parent()).map(Path::to_owned);
        Ok(Self { config, topology: Arc::new(topology), folder, keys: Keys::new(prefix, partition) })
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

    /// A connection to the partition's master, which is searched anew each time.
    ///
    /// # Errors
    /// If no majority names the master, or it cannot be reached within `REDIS_CONNECT_TIMEOUT`.
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
        let config = self.topology.find_master(&self.config, self.slot()).await?;
        let connection = Connection::open(config, command_timeout).await?;
        let user = self.config.username.as_deref().unwrap_or("default").into();
        Ok(Redis { connection, keys: self.keys.clone(), user })
    }

    /// How the partitions' masters fail over, for the operator; `None` for a single server.
    ///
    /// # Errors
    /// If no node of the cluster, or no Sentinel, answers.
    pub async fn topology(&self, partitions: &[Partition]) -> Result<Option<TopologyReport>, RedisError> {
        let slots: Vec<u16> = partitions.iter().map(|partition| self.of(*partition).slot()).collect();
        self.topology.report(&self.config, &slots).await
    }

    /// The slot of the partition's keys in a Redis Cluster.
    fn slot(&self) -> u16 {
        redis_keyslot(self.keys.orders.as_bytes())
    }
}

impl Redis {
    /// Sends one command, with the connection's timeout.
    pub(crate) async fn call(&self, command: &'static str, args: Vec<Value>) -> Result<Value, RedisError> {
        self.connection.call(command, args).await
    }

    /// Sends two commands in one write, with the connection's timeout for both; returns the reply of each.
    pub(super) async fn call_both(
        &self,
        commands: [(&'static str, Vec<Value>); 2],
    ) -> Result<[Result<Value, RedisError>; 2], RedisError> {
        self.connection.call_both(commands).await
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
