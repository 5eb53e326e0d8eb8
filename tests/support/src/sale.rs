//! A running `seckill serve` with its own data directory, Redis and Postgres: starts and stops it, and starts other
//! processes on the same stores. `http` sends requests to it; `stores` reads and changes Redis and Postgres without it.

mod http;
mod stores;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::Client;
use tempfile::TempDir;

pub use self::http::client;
use crate::fixtures::{mint_token, program, temp_dir};
use crate::process::Process;
use crate::proxy::Proxy;
use crate::wait::{DEADLINE, until};

/// A server and its data directory. A drop stops the server and the stores.
pub struct Sale {
    server: Option<Process>,
    /// The address on which the server listens.
    pub url: String,
    pub client: Client,
    environment: Vec<(String, String)>,
    // The last field, so that it is dropped after the server: a failed test prints the server's log.
    pub dir: TempDir,
}

impl Sale {
    /// Starts a server and waits until it accepts claims.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As `start`, with additional environment variables.
    pub async fn start_with(environment: &[(&str, &str)]) -> Self {
        let mut sale = Self::without_server(environment);
        sale.start_server().await;
        sale
    }

    /// A sale without a server; its data directory does not exist yet.
    pub fn without_server(environment: &[(&str, &str)]) -> Self {
        let environment = environment.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Self { server: None, url: String::new(), client: client(), environment, dir: temp_dir("seckill-") }
    }

    /// Starts the server, for example again after a kill or stop, and waits until it accepts claims.
    pub async fn start_server(&mut self) {
        self.start_server_unready().await;
        self.until_ready().await;
    }

    /// Starts the server and waits only until it listens.
    pub async fn start_server_unready(&mut self) {
        let process = self.spawn("serve", &[]);
        self.use_as_server(process).await;
    }

    /// Uses a process that the test has started as the server of this sale.
    pub async fn use_as_server(&mut self, process: Process) {
        self.url = until("the server listens", async || {
            let log = process.log();
            let (line, _) = log.split_once('\n')?;
            // In JSON the text is in a field.
            Some(line.split_once("listening on ")?.1.split('"').next()?.to_owned())
        })
        .await;
        self.server = Some(process);
    }

    /// Waits until `/readyz` answers 200.
    pub async fn until_ready(&self) {
        until("claims are accepted", async || (self.get("/readyz").await.status == 200).then_some(())).await;
    }

    /// Starts another process in the same environment, for example `worker`.
    pub fn spawn(&self, command: &str, environment: &[(&str, &str)]) -> Process {
        let mut child = self.command();
        child.arg(command).envs(environment.iter().copied());
        self.spawn_as(command, child)
    }

    /// Starts any command; its stderr goes to a file in `dir`, with `name` in the file's name.
    pub fn spawn_as(&self, name: &str, mut child: Command) -> Process {
        let number = fs::read_dir(self.dir.path()).unwrap().count();
        let stderr = self.dir.path().join(format!("stderr-{number}-{name}"));
        child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&stderr).unwrap());
        Process::new(child.spawn().unwrap(), stderr)
    }

    /// Starts a process that gets only the addresses of the stores, like a process on another machine. For a store that
    /// has a proxy in `proxies`, the process gets the proxy's address.
    pub fn spawn_by_address(
        &self,
        command: &str,
        proxies: &[&Proxy],
        environment: &[(&str, &str)],
    ) -> Process {
        let secret = self.jwt_secret();
        let redis = format!("redis+unix://{}", self.redis_socket().display());
        let folder = self.data_dir().join("postgres");
        let postgres = format!("postgres://seckill@localhost/seckill?host={}", folder.display());
        let token = self.admin_token();
        let mut all = vec![
            ("SECKILL_LISTEN", "127.0.0.1:0"),
            ("REDIS_URL", &redis),
            ("DATABASE_URL", &postgres),
            ("SECKILL_JWT_SECRET", &secret),
            ("SECKILL_ADMIN_TOKEN", &token),
        ];
        // If a variable is there twice, the last value counts.
        all.extend(proxies.iter().map(|proxy| (proxy.setting, proxy.url.as_str())));
        all.extend(environment);
        self.spawn(command, &all)
    }

    /// The program with this sale's environment, without the settings of the machine's own environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("SECKILL_") || text == "REDIS_URL" || text == "DATABASE_URL" {
                command.env_remove(&name);
            }
        }
        command.env("SECKILL_DATA_DIR", self.data_dir()).env("SECKILL_URL", &self.url);
        command.env("SECKILL_LISTEN", "127.0.0.1:0");
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The server's process, which then no longer belongs to this sale.
    pub fn take_server(&mut self) -> Process {
        self.server.take().expect("the sale has a server")
    }

    pub fn server(&mut self) -> &mut Process {
        self.server.as_mut().expect("the server was started")
    }

    pub fn signal_server(&self, signal: Signal) {
        self.server.as_ref().expect("the server was started").signal(signal);
    }

    /// What the running server has logged.
    pub fn log(&self) -> String {
        self.server.as_ref().map(Process::log).unwrap_or_default()
    }

    pub fn admin_token(&self) -> String {
        fs::read_to_string(self.data_dir().join("admin-token")).unwrap().trim_end().to_owned()
    }

    pub fn jwt_secret(&self) -> String {
        fs::read_to_string(self.data_dir().join("jwt-secret")).unwrap().trim_end().to_owned()
    }

    /// A user's token, valid for an hour.
    pub fn token(&self, user: &str) -> String {
        self.token_with(user, Duration::from_hours(1))
    }

    pub fn token_with(&self, user: &str, lifetime: Duration) -> String {
        mint_token(&self.jwt_secret(), user, lifetime)
    }

    /// Sends SIGTERM to the server and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.server.take().expect("the server runs").stop()
    }

    /// Stops the server, which must succeed; returns the server's whole log.
    pub fn stop_and_read(&mut self) -> String {
        let (status, log) = self.server.take().expect("the server runs").stop_and_read();
        assert!(status.success(), "{status}: {log}");
        log
    }

    /// Kills the server with SIGKILL; its stores continue to run.
    pub fn kill_9(&mut self) {
        self.server.take().expect("the server runs").kill_9();
    }
}

impl Drop for Sale {
    fn drop(&mut self) {
        if self.server.is_some() {
            return;
        }
        // The server was killed, and its stores still run: another server takes them over and stops them.
        let process = self.spawn("serve", &[("SECKILL_LISTEN", "127.0.0.1:0"), ("SECKILL_WORKERS", "0")]);
        let deadline = Instant::now() + DEADLINE;
        while !process.log().contains("fence up") && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
