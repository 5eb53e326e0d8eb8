//! The processes under test: a server that owns the stores, a second server and two workers that reach the stores
//! through proxies of their own, and the processes of the stores. `inject` decides what happens to them. In a run with
//! a group of Redis servers no process owns the stores, and the processes find Redis themselves.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::RngExt;

use crate::faults::Mode;
use crate::group::Group;
use crate::stores::{Redis, Stores};
use crate::trace::ReplicationSlot;
use support::external_store::ExternalStore;
use support::proxy::Proxy;
use support::{Process, Sale};

/// Longest wait for anything; what takes longer has failed.
pub const TIMEOUT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);
/// Below the ports that the system assigns, so that no other process takes one while its server is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Of the admin and of the tokens, in a run with a group.
const SECRET: &str = "a secret of at least thirty-two bytes";

/// Index in `Cluster::nodes` of the second server.
pub const SERVER: usize = 0;
/// Indexes of the two workers.
pub const WORKERS: [usize; 2] = [1, 2];

pub struct Cluster {
    /// The server that owns the stores, or else the first server.
    pub program: Sale,
    pub nodes: Vec<Node>,
    pub stores: Stores,
    /// `None` with a group: its servers have a log each, which a failover leaves in no common order.
    pub replication_slot: Option<ReplicationSlot>,
    /// Where the two servers listen.
    pub urls: [String; 2],
    /// After how long another worker reclaims an unacknowledged entry.
    pub reclaim_after: Duration,
    pub group: Option<Group>,
    // After the processes, so that these stop while the store still answers.
    _postgres: Option<ExternalStore>,
}

/// The marker of a partition at some moment.
pub struct Marker {
    key: String,
    /// `None` if Redis gave no answer.
    value: Option<String>,
}

/// A process that knows only the addresses of the stores.
pub struct Node {
    command: &'static str,
    environment: Vec<(&'static str, String)>,
    pub redis: Proxy,
    pub postgres: Proxy,
    process: Option<Process>,
}

impl Cluster {
    pub async fn start(coupons: Vec<String>, reclaim_after: Duration, mode: Mode) -> Self {
        let ports = [free_port(), free_port()];
        let listens = ports.map(|port| format!("127.0.0.1:{port}"));
        let reclaim = format!("{}ms", reclaim_after.as_millis());
        let common = [
            ("SECKILL_LISTEN", listens[0].as_str()),
            ("SECKILL_WORKERS", "1"),
            ("SECKILL_RECLAIM_AFTER", &reclaim),
        ];
        let group = Group::start(mode).await;
        let (program, stores, store) = match &group {
            None => {
                let program = Sale::start_with(&common).await;
                let (redis, folder) = (program.redis_socket(), program.data_dir().join("postgres"));
                let stores = Stores::new(Redis::Socket(redis), folder, coupons, vec![0]);
                (program, stores, None)
            }
            Some(group) => {
                let (program, postgres) = start_on(group, mode, &common).await;
                let redis = Redis::Group(group.masters());
                let folder = postgres.dir.path().to_owned();
                let stores = Stores::new(redis, folder, coupons, program.partitions());
                (program, stores, Some(postgres))
            }
        };
        let mut replication_slot = None;
        if group.is_none() {
            let restart = async || {
                let pid = postmaster(&stores.postgres_folder).expect("Postgres has started");
                signal(pid, Signal::SIGINT);
            };
            replication_slot = Some(ReplicationSlot::open(&stores, restart).await);
        }
        program.until_ready().await;
        let mut nodes = Vec::new();
        for (command, workers) in [("serve", "0"), ("worker", "1"), ("worker", "1")] {
            let mut environment =
                vec![("SECKILL_WORKERS", workers.to_owned()), ("SECKILL_RECLAIM_AFTER", reclaim.clone())];
            if command == "serve" {
                environment.push(("SECKILL_LISTEN", listens[1].clone()));
            }
            let redis = Proxy::before(&program.redis_socket());
            match &group {
                None => environment.push((redis.setting, redis.url.clone())),
                Some(group) => environment.push(("REDIS_URL", group.url())),
            }
            let postgres = Proxy::before(&stores.postgres_folder.join(".s.PGSQL.5432"));
            let mut node = Node { command, environment, redis, postgres, process: None };
            node.start(&program);
            nodes.push(node);
        }
        for node in &nodes {
            if let Some(process) = &node.process {
                process.until_logged("fence up").await;
            }
        }
        let urls = listens.map(|listen| format!("http://{listen}"));
        Self { program, nodes, stores, replication_slot, urls, reclaim_after, group, _postgres: store }
    }

    pub fn start_node(&mut self, place: usize) {
        self.nodes[place].start(&self.program);
    }

    /// Processes that ended although no fault had ended them.
    pub fn ended(&mut self) -> Vec<String> {
        let program = self.program.server().ended().map(|status| format!("the program ended: {status}"));
        let nodes = self.nodes.iter_mut().filter_map(|node| {
            let status = node.process.as_mut()?.ended()?;
            Some(format!("a {} ended: {status}", node.command))
        });
        program.into_iter().chain(nodes).collect()
    }

    /// Waits until claims of every partition are accepted; `None` if they are not.
    pub async fn until_ready(&self) -> Option<()> {
        for partition in &self.stores.partitions {
            let key = marker_key(*partition);
            self.until_marked(&Marker { key, value: None }).await?;
        }
        if self.group.is_none() {
            return wait(async || (self.program.get("/readyz").await.status == 200).then_some(())).await;
        }
        let is_up = async |url: &str| {
            let metrics =
                self.program.client.get(format!("{url}/metrics")).send().await.ok()?.text().await.ok()?;
            let line = |partition: &i16| format!("seckill_partition_up{{partition=\"{partition}\"}} 1\n");
            self.stores.partitions.iter().all(|partition| metrics.contains(&line(partition))).then_some(())
        };
        for url in &self.urls {
            wait(async || is_up(url).await).await?;
        }
        Some(())
    }

    /// The marker of the partition now.
    pub async fn marker(&self, partition: i16) -> Marker {
        let key = marker_key(partition);
        let value = self.stores.redis_cli(&["GET", &key]).await.ok();
        Marker { key, value }
    }

    /// Waits for a rebuild: another marker, and then claims are accepted.
    pub async fn until_rebuilt(&self, before: &Marker) -> Option<()> {
        self.until_marked(before).await?;
        self.until_ready().await
    }

    /// Waits for another marker only: the program may be stopped by a signal.
    pub async fn until_marked(&self, before: &Marker) -> Option<()> {
        wait(async || {
            let marker = self.stores.redis_cli(&["GET", &before.key]).await.ok()?;
            (marker.starts_with("ready:") && Some(&marker) != before.value.as_ref()).then_some(())
        })
        .await
    }

    /// Process id of the running redis-server.
    pub async fn redis_pid(&self) -> Option<i32> {
        wait(async || {
            let info = self.stores.redis_cli(&["INFO", "server"]).await.ok()?;
            info.lines().find_map(|line| line.strip_prefix("process_id:"))?.trim().parse().ok()
        })
        .await
    }

    /// Process id of the running postmaster.
    pub async fn postgres_pid(&self) -> Option<i32> {
        wait(async || {
            self.stores.psql("select 1").await.ok()?;
            postmaster(&self.stores.postgres_folder)
        })
        .await
    }

    /// Copies the logs of all processes into the folder.
    pub fn save_logs(&self, folder: &Path) {
        let entries = fs::read_dir(self.program.dir.path()).unwrap().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        if self.group.is_some() {
            return;
        }
        for log in ["redis/redis.log", "postgres/postgres.log"] {
            let name = Path::new(log).file_name().unwrap();
            fs::copy(self.program.data_dir().join(log), folder.join(name)).unwrap();
        }
    }
}

impl Node {
    fn start(&mut self, program: &Sale) {
        let environment: Vec<(&str, &str)> =
            self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let process = program.spawn_by_address(self.command, &[&self.postgres], &environment);
        self.process = Some(process);
    }

    pub fn kill_9(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill_9();
        }
    }

    /// What the running process has logged.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }
}

/// Starts the first server on the group and a Postgres of its own.
async fn start_on(group: &Group, mode: Mode, common: &[(&str, &str)]) -> (Sale, ExternalStore) {
    let postgres = ExternalStore::postgres(&["max_connections=200"]).await;
    postgres.psql("create database seckill").unwrap();
    let database = format!("postgres://seckill@localhost/seckill?host={}", postgres.dir.path().display());
    let (redis, partitions) = (group.url(), mode.partitions().to_string());
    let stores = [
        ("REDIS_URL", redis.as_str()),
        ("DATABASE_URL", &database),
        ("SECKILL_PARTITIONS", &partitions),
        ("SECKILL_JWT_SECRET", SECRET),
        ("SECKILL_ADMIN_TOKEN", SECRET),
    ];
    let mut program = Sale::without_server(&[common, &stores].concat());
    // The harness reads the secrets from the data directory.
    fs::create_dir_all(program.data_dir()).unwrap();
    for file in ["jwt-secret", "admin-token"] {
        fs::write(program.data_dir().join(file), SECRET).unwrap();
    }
    program.start_server().await;
    (program, postgres)
}

fn marker_key(partition: i16) -> String {
    format!("seckill:{{{partition}}}:epoch")
}

fn postmaster(folder: &Path) -> Option<i32> {
    fs::read_to_string(folder.join("cluster/postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
}

/// The process and its child processes.
pub fn with_children(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    std::iter::once(pid).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
}

/// Sends a signal; false if the process does not exist.
pub fn signal(pid: i32, signal: Signal) -> bool {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) => true,
        Err(Errno::ESRCH) => false,
        Err(error) => panic!("signalling process {pid}: {error}"),
    }
}

/// Calls the condition until it returns a value; `None` after `TIMEOUT`.
pub async fn wait<T>(condition: impl AsyncFn() -> Option<T>) -> Option<T> {
    let poll = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(TIMEOUT, poll).await.ok()
}

/// A random port, not one of the seed: two runs of one seed may run at the same time.
fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
