//! Where the master of a partition is: one server, the node of a Redis Cluster that owns the partition's slot, or the
//! master that Sentinels name. Only a majority of the cluster's masters, or of all Sentinels, is believed: two processes
//! with different views would otherwise rebuild two servers in turn. `address` reads `REDIS_URL`, `views` the replies.

mod address;
mod majority;
mod report;
mod views;

use std::collections::HashSet;
use std::fmt;

use fred::types::Value;
use fred::types::config::{Config, Server, ServerConfig};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::connection::Connection;
use super::{RedisError, integer};
use crate::config;
pub use address::Address;
use majority::Votes;
pub use report::Report;
use views::View;

/// Host and port of a node or a Sentinel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// How the master is found.
#[derive(Clone, Debug)]
pub(super) enum Topology {
    /// `REDIS_URL` is the server's address.
    Single,
    Cluster {
        seeds: Vec<Node>,
    },
    Sentinel {
        seeds: Vec<Node>,
        service: String,
        user: Option<String>,
        password: Option<String>,
    },
}

impl Topology {
    /// The configuration of a plain connection to the master of this slot.
    ///
    /// # Errors
    /// `NoMaster` if no majority names it.
    pub(super) async fn find_master(&self, config: &Config, slot: u16) -> Result<Config, RedisError> {
        let seeds = match self {
            Self::Single => return Ok(config.clone()),
            Self::Cluster { seeds } | Self::Sentinel { seeds, .. } => seeds,
        };
        let is_sentinel = matches!(self, Self::Sentinel { .. });
        let mut votes = Votes::new(if is_sentinel { seeds.len() } else { 0 });
        let mut asked: HashSet<Node> = HashSet::new();
        let mut asking = FuturesUnordered::new();
        for seed in seeds.iter().filter(|seed| asked.insert((*seed).clone())) {
            asking.push(self.ask(config, seed.clone(), slot));
        }
        while let Some((node, view)) = asking.next().await {
            match view {
                Ok(view) => {
                    let members: Vec<Node> = view.members.values().cloned().collect();
                    votes.add(view);
                    if let Some(master) = votes.majority() {
                        return Ok(at(config, &master));
                    }
                    for member in members {
                        if asked.insert(member.clone()) {
                            asking.push(self.ask(config, member, slot));
                        }
                    }
                }
                Err(error) => votes.add_failure(&node, &error),
            }
        }
        let who = if is_sentinel { "Sentinels" } else { "masters of the cluster" };
        Err(RedisError::NoMaster(format!("no majority of the {who} names the master: {}", votes.summary())))
    }

    /// What one node or Sentinel says, within `TOPOLOGY_ASK_TIMEOUT`.
    async fn ask(&self, config: &Config, node: Node, slot: u16) -> (Node, Result<View, RedisError>) {
        let asking = async {
            let connection = self.connect_to(config, &node).await?;
            match self {
                Self::Sentinel { service, .. } => views::of_sentinel(&connection, &node, service).await,
                _ => views::of_cluster_node(&connection, &node, slot).await,
            }
        };
        let answer = tokio::time::timeout(config::TOPOLOGY_ASK_TIMEOUT, asking).await;
        (node, answer.unwrap_or_else(|_| Err(RedisError::Unknown("no answer".into()))))
    }

    /// A connection to a node of the cluster, or to a Sentinel, which has its own user and no databases.
    async fn connect_to(&self, config: &Config, node: &Node) -> Result<Connection, RedisError> {
        let mut config = at(config, node);
        if let Self::Sentinel { user, password, .. } = self {
            config.username.clone_from(user);
            config.password.clone_from(password);
            config.database = None;
        }
        Connection::open(config, config::TOPOLOGY_ASK_TIMEOUT).await
    }
}

/// The same user, password, TLS and database, at another address.
fn at(config: &Config, node: &Node) -> Config {
    let server = Server::new(node.host.as_str(), node.port);
    Config { server: ServerConfig::Centralized { server }, ..config.clone() }
}

fn port(value: &Value, what: &str) -> Result<u16, RedisError> {
    let number = match value.as_str().and_then(|text| text.parse().ok()) {
        Some(number) => number,
        None => integer(value, what)?,
    };
    u16::try_from(number).map_err(|_| RedisError::Reply(format!("{what}: port {number}")))
}
