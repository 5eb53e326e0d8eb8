//! Redis servers that fail over: a cluster of three masters with a replica each, or a master with a replica and three
//! Sentinels. Finds the master of a partition as a client without the program would: most of them name it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use support::redis_group::{RedisCluster, SERVICE, SentinelGroup};
use tokio::process::Command;

use crate::faults::Mode;
use crate::stores::output;

/// Longest wait for what a node or a Sentinel says: one that is stopped says nothing.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

pub enum Group {
    Cluster(RedisCluster),
    Sentinels(SentinelGroup),
}

impl Group {
    /// `None` for a run with one Redis.
    pub async fn start(mode: Mode) -> Option<Self> {
        match mode {
            Mode::Safe | Mode::Flush => None,
            Mode::Cluster => Some(Self::Cluster(RedisCluster::start().await)),
            Mode::Sentinels => Some(Self::Sentinels(SentinelGroup::start().await)),
        }
    }

    pub fn url(&self) -> String {
        match self {
            Self::Cluster(cluster) => cluster.url(),
            Self::Sentinels(group) => group.url(),
        }
    }

    pub fn masters(&self) -> Masters {
        let (voters, is_cluster) = match self {
            Self::Cluster(cluster) => (cluster.ports(), true),
            Self::Sentinels(group) => (group.sentinel_ports(), false),
        };
        Masters { voters, is_cluster, known: Arc::default() }
    }

    pub fn kill_9(&mut self, port: u16) {
        match self {
            Self::Cluster(cluster) => cluster.kill_9(port),
            Self::Sentinels(group) => group.kill_9(port),
        }
    }

    pub fn start_again(&mut self, port: u16) {
        match self {
            Self::Cluster(cluster) => cluster.start_again(port),
            Self::Sentinels(group) => group.start_again(port),
        }
    }

    pub fn signal(&self, port: u16, what: Signal) {
        match self {
            Self::Cluster(cluster) => cluster.signal(port, what),
            Self::Sentinels(group) => group.signal(port, what),
        }
    }

    /// Signals two of the three that name the master: masters of the cluster, or Sentinels.
    pub fn signal_most(&self, masters: &[u16], what: Signal) {
        match self {
            Self::Cluster(cluster) => masters.iter().take(2).for_each(|port| cluster.signal(*port, what)),
            Self::Sentinels(group) => group.signal_sentinels_but(1, what),
        }
    }

    /// Whether every server is up, and a replica follows each of these masters: another one may fail now.
    pub fn is_whole(&self, masters: &[u16]) -> bool {
        match self {
            Self::Cluster(cluster) => cluster.is_whole(),
            Self::Sentinels(group) => {
                masters.iter().all(|port| group.is_followed(*port) && group.master() == Some(*port))
            }
        }
    }
}

/// Where the masters are.
#[derive(Clone)]
pub struct Masters {
    /// Ports of the nodes or Sentinels.
    voters: Vec<u16>,
    is_cluster: bool,
    /// The master of each partition that was found last.
    known: Arc<Mutex<BTreeMap<i16, u16>>>,
}

impl Masters {
    /// The master that was found last, or that most name now.
    pub async fn known(&self, partition: i16) -> Result<u16, String> {
        let known = self.known.lock().unwrap().get(&partition).copied();
        match known {
            Some(port) => Ok(port),
            None => self.find(partition).await,
        }
    }

    /// The next `known` asks again.
    pub fn forget(&self, partition: i16) {
        self.known.lock().unwrap().remove(&partition);
    }

    /// The port of the master that most name.
    pub async fn find(&self, partition: i16) -> Result<u16, String> {
        let answers = join_all(self.voters.iter().map(|voter| self.ask(*voter, partition))).await;
        let named: Vec<u16> = answers.into_iter().flatten().collect();
        let most =
            named.iter().copied().max_by_key(|port| named.iter().filter(|other| *other == port).count());
        let votes = named.iter().filter(|port| Some(**port) == most).count();
        let port = most.filter(|_| 2 * votes > named.len());
        let port =
            port.ok_or_else(|| format!("the master of partition {partition} is not known: {named:?}"))?;
        self.known.lock().unwrap().insert(partition, port);
        Ok(port)
    }

    async fn ask(&self, voter: u16, partition: i16) -> Option<u16> {
        let call = async |args: &[&str]| {
            let mut command = Command::new("redis-cli");
            command.args(["-e", "-p", &voter.to_string()]).args(args);
            output(command, ASK_TIMEOUT).await.ok()
        };
        if !self.is_cluster {
            let address = call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]).await?;
            return address.lines().nth(1)?.parse().ok();
        }
        let slot = call(&["CLUSTER", "KEYSLOT", &format!("{{{partition}}}")]).await?.parse().ok()?;
        call(&["CLUSTER", "NODES"]).await?.lines().find_map(|node| owner(node, slot))
    }
}

/// The port of a line of CLUSTER NODES, if that node is the master of the slot.
fn owner(node: &str, slot: u16) -> Option<u16> {
    let fields: Vec<&str> = node.split(' ').collect();
    let has = |range: &&str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let bounds = first.parse().ok().zip(last.parse().ok());
        bounds.is_some_and(|(first, last): (u16, u16)| (first..=last).contains(&slot))
    };
    let owns = fields.get(2)?.contains("master") && fields.get(8..)?.iter().any(has);
    owns.then(|| fields[1].split('@').next()?.rsplit_once(':')?.1.parse().ok())?
}
