//! A master with a replica, and three Sentinels.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{FAILS_AFTER_MS, RedisProcess, field, free_ports, redis_cli_as};
use crate::fixtures::temp_dir;
use crate::lag::Lag;
use crate::wait::until;

/// The name of the master that the Sentinels watch.
pub const SERVICE: &str = "sale";

/// A master, a replica and three Sentinels. The master fails after two seconds.
pub struct SentinelGroup {
    servers: Vec<RedisProcess>,
    /// The way from the first master to its replica, if it can be delayed.
    lag: Option<Lag>,
    sentinels: Vec<RedisProcess>,
    passwords: Passwords,
    _dir: TempDir,
}

/// Of the servers and of the Sentinels; empty ones mean none.
#[derive(Clone, Copy, Default)]
pub struct Passwords {
    pub servers: &'static str,
    pub sentinels: &'static str,
}

impl SentinelGroup {
    pub async fn start() -> Self {
        Self::start_with(Passwords::default()).await
    }

    /// The replica follows over a connection that can be delayed.
    pub async fn start_lagging() -> Self {
        Self::start_as(Passwords::default(), true).await
    }

    pub async fn start_with(passwords: Passwords) -> Self {
        Self::start_as(passwords, false).await
    }

    async fn start_as(passwords: Passwords, is_lagging: bool) -> Self {
        let dir = temp_dir("seckill-sentinel-");
        let [master, replica, sentinels @ ..]: [u16; 5] = free_ports();
        let own = ["--requirepass", passwords.servers, "--masterauth", passwords.servers];
        let lag = is_lagging.then(|| Lag::before(master));
        let follow = lag.as_ref().map_or(master, |lag| lag.port);
        let follow = ["--replicaof", &format!("127.0.0.1 {follow}")];
        // After the failover time-out a Sentinel would lead the replica past the lag.
        let failover_timeout_ms = if is_lagging { 60_000 } else { 10_000 };
        let servers = vec![
            RedisProcess::server(&dir, master, &own),
            RedisProcess::server(&dir, replica, &[own.as_slice(), &follow].concat()),
        ];
        until("the replica follows", async || {
            let info = redis_cli_as(passwords.servers, replica, &["INFO", "replication"]).ok()?;
            (field(&info, "master_link_status")? == "up").then_some(())
        })
        .await;
        let start = |port: u16| {
            let settings = dir.path().join(format!("sentinel-{port}.conf"));
            let mut text = format!(
                "bind 127.0.0.1\nport {port}\nsentinel monitor {SERVICE} 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds {SERVICE} {FAILS_AFTER_MS}\n\
                 sentinel failover-timeout {SERVICE} {failover_timeout_ms}\n"
            );
            let Passwords { servers, sentinels } = passwords;
            if !servers.is_empty() {
                writeln!(text, "sentinel auth-pass {SERVICE} {servers}").unwrap();
            }
            if !sentinels.is_empty() {
                writeln!(text, "requirepass {sentinels}\nsentinel sentinel-pass {sentinels}").unwrap();
            }
            fs::write(&settings, text).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(settings).arg("--sentinel").current_dir(dir.path());
            RedisProcess::start(port, command)
        };
        let sentinels: Vec<RedisProcess> = sentinels.into_iter().map(start).collect();
        let group = Self { servers, lag, sentinels, passwords, _dir: dir };
        until("the Sentinels know each other and the replica", async || {
            let knows = |sentinel: &RedisProcess| {
                let known =
                    redis_cli_as(passwords.sentinels, sentinel.port, &["SENTINEL", "MASTER", SERVICE]);
                let known = known.unwrap_or_default();
                let lines: Vec<&str> = known.lines().collect();
                let has = |name, value| lines.windows(2).any(|pair| pair == [name, value]);
                has("num-other-sentinels", "2") && has("num-slaves", "1")
            };
            group.sentinels.iter().all(knows).then_some(())
        })
        .await;
        group
    }

    /// `REDIS_URL` with two of the three Sentinels, and with the passwords if there are any.
    pub fn url(&self) -> String {
        let [first, second, ..] = self.sentinels.as_slice() else { panic!("there are Sentinels") };
        let (first, second) = (first.port, second.port);
        let Passwords { servers, sentinels } = self.passwords;
        let (user, own) = match (servers, sentinels) {
            ("", "") => (String::new(), String::new()),
            _ => (format!(":{servers}@"), format!("&sentinelPassword={sentinels}")),
        };
        format!(
            "redis-sentinel://{user}127.0.0.1:{first}?sentinelServiceName={SERVICE}&node=127.0.0.1:{second}{own}"
        )
    }

    /// The way from the first master to its replica, of a group that lags.
    pub fn lag(&self) -> &Lag {
        self.lag.as_ref().expect("the group was started with a lag")
    }

    /// The port of the server that is not this one.
    pub fn other(&self, port: u16) -> u16 {
        self.servers.iter().map(|server| server.port).find(|other| *other != port).unwrap()
    }

    /// The ports of the Sentinels.
    pub fn sentinel_ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(|sentinel| sentinel.port).collect()
    }

    /// Whether the server is up, and another one follows it.
    pub fn is_followed(&self, master: u16) -> bool {
        let info = redis_cli_as(self.passwords.servers, master, &["INFO", "replication"]);
        info.is_ok_and(|info| info.contains("role:master") && info.contains("state=online"))
    }

    /// The port of the master, if all Sentinels name the same.
    pub fn master(&self) -> Option<u16> {
        let named = self.sentinels.iter().map(|sentinel| {
            let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE];
            let address = redis_cli_as(self.passwords.sentinels, sentinel.port, &ask).ok()?;
            address.lines().nth(1)?.parse::<u16>().ok()
        });
        let named: Vec<u16> = named.collect::<Option<_>>()?;
        named.iter().all(|port| *port == named[0]).then(|| named[0])
    }

    pub fn kill_9(&mut self, port: u16) {
        self.servers.iter_mut().find(|server| server.port == port).unwrap().kill_9();
    }

    /// Starts a killed server again.
    pub fn start_again(&mut self, port: u16) {
        self.servers.iter_mut().find(|server| server.port == port).unwrap().start_again();
    }

    pub fn signal(&self, port: u16, what: Signal) {
        self.servers.iter().find(|server| server.port == port).unwrap().signal(what);
    }

    /// Stops or wakes all Sentinels but this number.
    pub fn signal_sentinels_but(&self, awake: usize, what: Signal) {
        self.sentinels.iter().skip(awake).for_each(|sentinel| sentinel.signal(what));
    }
}
