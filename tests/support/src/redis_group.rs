//! Several Redis servers on loopback that fail over: a `cluster` of three masters with a replica each, and a master with a
//! replica and three Sentinels (`sentinels`). Every process is ended by its id, also when a test panics.

mod cluster;
mod sentinels;

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::process::{output_of, signal};

pub use cluster::{RedisCluster, SlotMove};
pub use sentinels::{Passwords, SERVICE, SentinelGroup};

/// After this time without an answer, a master counts as failed.
const FAILS_AFTER_MS: &str = "2000";

/// A process on a port of its own.
struct RedisProcess {
    port: u16,
    command: Command,
    child: Child,
}

impl RedisProcess {
    fn start(port: u16, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { port, child: command.spawn().unwrap(), command }
    }

    /// Starts it after its death, on the same files.
    fn start_again(&mut self) {
        self.child = self.command.spawn().unwrap();
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
    redis_cli_as("", port, args)
}

/// As `redis_cli`, with the password of the default user; an empty one means none.
pub fn redis_cli_as(password: &str, port: u16, args: &[&str]) -> Result<String, String> {
    output_of(client(password).args(["-e", "-p", &port.to_string()]).args(args))
}

fn client(password: &str) -> Command {
    let mut command = Command::new("redis-cli");
    if !password.is_empty() {
        command.env("REDISCLI_AUTH", password);
    }
    command
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
