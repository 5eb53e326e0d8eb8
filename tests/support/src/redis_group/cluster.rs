//! A cluster of three masters with a replica each.

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{FAILS_AFTER_MS, RedisProcess, client, field, free_ports, redis_cli, redis_cli_as};
use crate::fixtures::temp_dir;
use crate::process::output_of;
use crate::wait::until;

/// Three masters with a replica each. A master fails after two seconds.
pub struct RedisCluster {
    nodes: Vec<RedisProcess>,
    /// Empty if the nodes have none.
    password: String,
    _dir: TempDir,
}

impl RedisCluster {
    pub async fn start() -> Self {
        Self::start_with(&["--cluster-require-full-coverage", "no"]).await
    }

    /// Starts it with these settings of each node. With `--requirepass` also set `--masterauth`.
    pub async fn start_with(more: &[&str]) -> Self {
        let dir = temp_dir("seckill-cluster-");
        let password = more.iter().skip_while(|word| **word != "--requirepass").nth(1);
        let password = password.copied().unwrap_or_default().to_owned();
        let ports: [u16; 12] = free_ports();
        let (ports, buses) = ports.split_at(6);
        let nodes: Vec<RedisProcess> = ports
            .iter()
            .zip(buses)
            .map(|(port, bus)| {
                let settings = ["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()];
                let timeouts = ["--cluster-node-timeout", FAILS_AFTER_MS];
                RedisProcess::server(&dir, *port, &[&settings[..], &timeouts, more].concat())
            })
            .collect();
        for &port in ports {
            until("the node answers", async || redis_cli_as(&password, port, &["PING"]).ok()).await;
        }
        let mut create = client(&password);
        let addresses = ports.iter().zip(buses).map(|(port, bus)| format!("127.0.0.1:{port}@{bus}"));
        create.args(["--cluster", "create"]).args(addresses);
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        output_of(&mut create).unwrap();
        let cluster = Self { nodes, password, _dir: dir };
        until("every replica follows its master", async || cluster.is_whole().then_some(())).await;
        cluster
    }

    /// Whether every node is up, and every master has a replica that follows it.
    pub fn is_whole(&self) -> bool {
        self.nodes.iter().all(|node| self.is_ready(node.port))
    }

    /// Whether the node knows all slots, and its replica or master.
    fn is_ready(&self, port: u16) -> bool {
        let cli = |args| redis_cli_as(&self.password, port, args);
        let (Ok(cluster), Ok(replication)) = (cli(&["CLUSTER", "INFO"]), cli(&["INFO", "replication"]))
        else {
            return false;
        };
        let follows = match field(&replication, "role").as_deref() {
            Some("master") => replication.contains("state=online"),
            _ => field(&replication, "master_link_status").as_deref() == Some("up"),
        };
        follows
            && field(&cluster, "cluster_state").as_deref() == Some("ok")
            && field(&cluster, "cluster_slots_assigned").as_deref() == Some("16384")
            && field(&cluster, "cluster_known_nodes") == Some(self.nodes.len().to_string())
    }

    /// `REDIS_URL` with two of the six nodes.
    pub fn url(&self) -> String {
        self.url_as("")
    }

    /// The same with user and password, as in `shop:secret@`.
    pub fn url_as(&self, user: &str) -> String {
        let [first, .., last] = self.nodes.as_slice() else { panic!("the cluster has nodes") };
        format!("redis-cluster://{user}127.0.0.1:{}?node=127.0.0.1:{}", first.port, last.port)
    }

    /// The ports of all nodes, dead ones too.
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// The port of the master that owns this key's slot, as the nodes that answer say; asks no stopped node.
    pub fn master_of(&self, key: &str, except: u16) -> Option<u16> {
        let others = self.nodes.iter().filter(|node| node.port != except);
        others.into_iter().find_map(|node| {
            let cli = |args: &[&str]| redis_cli_as(&self.password, node.port, args).ok();
            let slot: u16 = cli(&["CLUSTER", "KEYSLOT", key])?.parse().ok()?;
            cli(&["CLUSTER", "NODES"])?.lines().find_map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                let owns = fields[2].contains("master")
                    && fields[8..].iter().any(|range| {
                        let (from, to) = range.split_once('-').unwrap_or((range, range));
                        let bounds = from.parse().ok().zip(to.parse().ok());
                        bounds.is_some_and(|(from, to): (u16, u16)| from <= slot && slot <= to)
                    });
                owns.then(|| port_of(fields[1]))?
            })
        })
    }

    /// The ports of all masters with slots, by this node.
    pub fn masters(&self, asked: u16) -> Vec<u16> {
        let nodes = redis_cli(asked, &["CLUSTER", "NODES"]).unwrap();
        let fields = nodes.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let masters = fields.filter(|fields| fields[2].contains("master") && fields.len() > 8);
        masters.filter_map(|fields| port_of(fields[1])).collect()
    }

    pub fn kill_9(&mut self, port: u16) {
        self.nodes.iter_mut().find(|node| node.port == port).unwrap().kill_9();
    }

    /// Starts a killed node again.
    pub fn start_again(&mut self, port: u16) {
        self.nodes.iter_mut().find(|node| node.port == port).unwrap().start_again();
    }

    pub fn signal(&self, port: u16, what: Signal) {
        self.nodes.iter().find(|node| node.port == port).unwrap().signal(what);
    }

    /// Marks the slot of this key as moving to the master on the port `target`.
    pub fn begin_move(&self, key: &str, target: u16) -> SlotMove {
        let source = self.master_of(key, 0).unwrap();
        let [from, to] = [source, target].map(|port| redis_cli(port, &["CLUSTER", "MYID"]).unwrap());
        let slot = redis_cli(source, &["CLUSTER", "KEYSLOT", key]).unwrap();
        let slot_move = SlotMove { slot, source, target, to };
        slot_move.set(target, &["IMPORTING", &from]);
        slot_move.set(source, &["MIGRATING", &slot_move.to]);
        slot_move
    }

    /// Moves every key of the slot, while clients may still add some.
    pub async fn move_keys(&self, slot_move: &SlotMove) {
        let SlotMove { slot, source, target, .. } = slot_move;
        until("all keys have moved", async || {
            let keys = redis_cli(*source, &["CLUSTER", "GETKEYSINSLOT", slot, "1"]).unwrap();
            let Some(key) = keys.lines().next().filter(|key| !key.is_empty()) else { return Some(()) };
            // The key may have been deleted since: that is no error.
            redis_cli(*source, &["MIGRATE", "127.0.0.1", &target.to_string(), key, "0", "5000"]).unwrap();
            None
        })
        .await;
    }

    /// Gives the slot to its new master, and tells all masters.
    pub fn end_move(&self, slot_move: &SlotMove) {
        let SlotMove { source, target, to, .. } = slot_move;
        for port in [*target, *source].into_iter().chain(self.masters(*target)) {
            slot_move.set(port, &["NODE", to]);
        }
    }
}

/// A slot on its way to another master.
pub struct SlotMove {
    slot: String,
    pub source: u16,
    pub target: u16,
    /// The id of the target.
    to: String,
}

impl SlotMove {
    fn set(&self, port: u16, args: &[&str]) {
        redis_cli(port, &[&["CLUSTER", "SETSLOT", &self.slot], args].concat()).unwrap();
    }

    /// Leaves the slot where it is; only before a key has moved.
    pub fn give_up(&self) {
        for port in [self.target, self.source] {
            self.set(port, &["STABLE"]);
        }
    }
}

/// The port in `127.0.0.1:7000@17000,host`.
fn port_of(address: &str) -> Option<u16> {
    address.split('@').next()?.rsplit_once(':')?.1.parse().ok()
}
