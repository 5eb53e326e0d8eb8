//! Several Redis servers on loopback that fail over: a cluster of three masters with a replica each, and a master with a
//! replica and three Sentinels. Every process is ended by its id, also when a test panics.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::fixtures::temp_dir;
use crate::lag::Lag;
use crate::process::{output_of, signal};
use crate::wait::until;

/// After this time without an answer, a master counts as failed.
const FAILS_AFTER_MS: &str = "2000";
/// The name of the master that the Sentinels watch.
const SERVICE: &str = "sale";

/// A process on a port of its own.
struct RedisProcess {
    port: u16,
    child: Child,
}

impl RedisProcess {
    fn start(port: u16, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { port, child: command.spawn().unwrap() }
    }

    /// A durable server in a folder of its own.
    fn server(dir: &TempDir, port: u16, settings: &[&str]) -> Self {
        let folder = dir.path().join(port.to_string());
        fs::create_dir(&folder).unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"]);
        command.args(settings).current_dir(folder);
        Self::start(port, command)
    }

    fn signal(&self, what: Signal) {
        signal(i32::try_from(self.child.id()).unwrap(), what);
    }

    fn kill_9(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        self.kill_9();
    }
}

/// Sends one command to the server on this port; an error reply is an `Err`.
pub fn redis_cli(port: u16, args: &[&str]) -> Result<String, String> {
    output_of(Command::new("redis-cli").args(["-e", "-p", &port.to_string()]).args(args))
}

/// Connections of clients and of other servers.
pub fn connections(port: u16) -> u64 {
    let info = redis_cli(port, &["INFO", "clients"]).unwrap();
    field(&info, "connected_clients").unwrap().parse().unwrap()
}

/// The value of a line of INFO, or of CLUSTER INFO.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
}

/// Ports that are free now. They stay bound until all are chosen, so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Three masters with a replica each. A master fails after two seconds.
pub struct RedisCluster {
    nodes: Vec<RedisProcess>,
    _dir: TempDir,
}

impl RedisCluster {
    pub async fn start() -> Self {
        let dir = temp_dir("seckill-cluster-");
        let ports: [u16; 12] = free_ports();
        let (ports, buses) = ports.split_at(6);
        let nodes: Vec<RedisProcess> = ports
            .iter()
            .zip(buses)
            .map(|(port, bus)| {
                let settings = ["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()];
                let timeouts = ["--cluster-node-timeout", FAILS_AFTER_MS];
                let partial = ["--cluster-require-full-coverage", "no"];
                RedisProcess::server(&dir, *port, &[&settings[..], &timeouts, &partial].concat())
            })
            .collect();
        for &port in ports {
            until("the node answers", async || redis_cli(port, &["PING"]).ok()).await;
        }
        let mut create = Command::new("redis-cli");
        let addresses = ports.iter().zip(buses).map(|(port, bus)| format!("127.0.0.1:{port}@{bus}"));
        create.args(["--cluster", "create"]).args(addresses);
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        output_of(&mut create).unwrap();
        let cluster = Self { nodes, _dir: dir };
        until("every replica follows its master", async || {
            let all = cluster.nodes.iter().all(|node| cluster.is_ready(node.port));
            all.then_some(())
        })
        .await;
        cluster
    }

    /// Whether the node knows all slots, and its replica or master.
    fn is_ready(&self, port: u16) -> bool {
        let (Ok(cluster), Ok(replication)) =
            (redis_cli(port, &["CLUSTER", "INFO"]), redis_cli(port, &["INFO", "replication"]))
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
        let [first, .., last] = self.nodes.as_slice() else { panic!("the cluster has nodes") };
        format!("redis-cluster://127.0.0.1:{}?node=127.0.0.1:{}", first.port, last.port)
    }

    /// The port of the master that owns this key's slot, as the nodes that answer say; asks no stopped node.
    pub fn master_of(&self, key: &str, except: u16) -> Option<u16> {
        let others = self.nodes.iter().filter(|node| node.port != except);
        others.into_iter().find_map(|node| {
            let slot: u16 = redis_cli(node.port, &["CLUSTER", "KEYSLOT", key]).ok()?.parse().ok()?;
            redis_cli(node.port, &["CLUSTER", "NODES"]).ok()?.lines().find_map(|line| {
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

    pub fn signal(&self, port: u16, what: Signal) {
        self.nodes.iter().find(|node| node.port == port).unwrap().signal(what);
    }
}

/// The port in `127.0.0.1:7000@17000,host`.
fn port_of(address: &str) -> Option<u16> {
    address.split('@').next()?.rsplit_once(':')?.1.parse().ok()
}

/// A master, a replica and three Sentinels. The master fails after two seconds.
pub struct SentinelGroup {
    servers: Vec<RedisProcess>,
    /// The way from the first master to its replica.
    pub lag: Lag,
    sentinels: Vec<RedisProcess>,
    _dir: TempDir,
}

impl SentinelGroup {
    pub async fn start() -> Self {
        let dir = temp_dir("seckill-sentinel-");
        let [master, replica, sentinels @ ..]: [u16; 5] = free_ports();
        let lag = Lag::before(master);
        let servers = vec![
            RedisProcess::server(&dir, master, &[]),
            RedisProcess::server(&dir, replica, &["--replicaof", &format!("127.0.0.1 {}", lag.port)]),
        ];
        until("the replica follows", async || {
            let info = redis_cli(replica, &["INFO", "replication"]).ok()?;
            (field(&info, "master_link_status")? == "up").then_some(())
        })
        .await;
        let start = |port: u16| {
            // After the failover time-out a Sentinel would lead the replica past the lag.
            let settings = dir.path().join(format!("sentinel-{port}.conf"));
            let text = format!(
                "bind 127.0.0.1\nport {port}\nsentinel monitor {SERVICE} 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds {SERVICE} {FAILS_AFTER_MS}\n\
                 sentinel failover-timeout {SERVICE} 60000\n"
            );
            fs::write(&settings, text).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(settings).arg("--sentinel").current_dir(dir.path());
            RedisProcess::start(port, command)
        };
        let sentinels: Vec<RedisProcess> = sentinels.into_iter().map(start).collect();
        let group = Self { servers, lag, sentinels, _dir: dir };
        until("the Sentinels know each other and the replica", async || {
            let knows = |sentinel: &RedisProcess| {
                let known = redis_cli(sentinel.port, &["SENTINEL", "MASTER", SERVICE]).unwrap_or_default();
                let lines: Vec<&str> = known.lines().collect();
                let has = |name, value| lines.windows(2).any(|pair| pair == [name, value]);
                has("num-other-sentinels", "2") && has("num-slaves", "1")
            };
            group.sentinels.iter().all(knows).then_some(())
        })
        .await;
        group
    }

    /// `REDIS_URL` with two of the three Sentinels.
    pub fn url(&self) -> String {
        let [first, second, ..] = self.sentinels.as_slice() else { panic!("there are Sentinels") };
        let (first, second) = (first.port, second.port);
        format!("redis-sentinel://127.0.0.1:{first}?sentinelServiceName={SERVICE}&node=127.0.0.1:{second}")
    }

    /// The port of the master, if all Sentinels name the same.
    pub fn master(&self) -> Option<u16> {
        let named = self.sentinels.iter().map(|sentinel| {
            let address = redis_cli(sentinel.port, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]).ok()?;
            address.lines().nth(1)?.parse::<u16>().ok()
        });
        let named: Vec<u16> = named.collect::<Option<_>>()?;
        named.iter().all(|port| *port == named[0]).then(|| named[0])
    }

    pub fn kill_9(&mut self, port: u16) {
        self.servers.iter_mut().find(|server| server.port == port).unwrap().kill_9();
    }

    pub fn signal(&self, port: u16, what: Signal) {
        self.servers.iter().find(|server| server.port == port).unwrap().signal(what);
    }

    /// The port of the server that is not this one.
    pub fn other(&self, port: u16) -> u16 {
        self.servers.iter().map(|server| server.port).find(|other| *other != port).unwrap()
    }

    /// Stops or wakes all Sentinels but this number.
    pub fn signal_sentinels_but(&self, awake: usize, what: Signal) {
        self.sentinels.iter().skip(awake).for_each(|sentinel| sentinel.signal(what));
    }
}
