//! External stores: a Postgres and a Redis as an operator sets them up, without the settings of the embedded ones.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

use crate::fixtures::temp_dir;
use crate::process::{output_of, signal};
use crate::wait::until;

/// User and group without rights, the same on all common distributions.
const UNPRIVILEGED_ID: u32 = 65_534;

/// A store that runs until it is dropped.
pub struct ExternalStore {
    child: Child,
    pub dir: TempDir,
}

impl ExternalStore {
    /// Starts a new cluster with the defaults of initdb and these additional settings.
    pub async fn postgres(settings: &[&str]) -> Self {
        let dir = folder();
        let cluster = dir.path().join("cluster");
        let initdb = unprivileged(&postgres_bin().join("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=seckill", "-D"])
            .arg(&cluster)
            .stdout(Stdio::null())
            .status();
        assert!(initdb.unwrap().success());
        Self::postgres_at(dir, settings).await
    }

    /// Starts the cluster in this folder.
    pub async fn postgres_at(dir: TempDir, settings: &[&str]) -> Self {
        let mut postgres = unprivileged(&postgres_bin().join("postgres"));
        postgres.arg("-D").arg(dir.path().join("cluster")).args(["-c", "listen_addresses=", "-c"]);
        postgres.arg(format!("unix_socket_directories={}", dir.path().display()));
        postgres.args(settings.iter().flat_map(|setting| ["-c", setting]));
        let store = Self { child: quiet(&mut postgres), dir };
        until("Postgres answers", async || store.psql("select 1").ok()).await;
        store
    }

    /// A standby of this Postgres, which has received everything so far.
    pub async fn standby(&self, settings: &[&str]) -> Self {
        let dir = folder();
        let primary = format!("host={} user=seckill application_name=standby", self.dir.path().display());
        let mut copy = unprivileged(&postgres_bin().join("pg_basebackup"));
        copy.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", &primary, "-D"]);
        output_of(copy.arg(dir.path().join("cluster"))).unwrap();
        Self::postgres_at(dir, settings).await
    }

    pub fn redis(settings: &[&str], dir: TempDir) -> Self {
        let mut redis = unprivileged(Path::new("redis-server"));
        redis.args(["--port", "0", "--unixsocket", "redis.sock", "--dir", "."]).args(settings);
        redis.current_dir(dir.path());
        Self { child: quiet(&mut redis), dir }
    }

    pub fn url(&self, store: &str) -> String {
        match store {
            "postgres" => format!("postgres://seckill@localhost/postgres?host={}", self.dir.path().display()),
            _ => format!("redis+unix://{}/redis.sock", self.dir.path().display()),
        }
    }

    pub fn psql(&self, sql: &str) -> Result<String, String> {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url("postgres")]);
        output_of(&mut psql)
    }

    pub fn redis_cli(&self, args: &[&str]) -> Result<String, String> {
        let mut redis_cli = Command::new("redis-cli");
        output_of(redis_cli.arg("-e").arg("-s").arg(self.dir.path().join("redis.sock")).args(args))
    }

    /// Sends a signal to all processes of the store.
    pub fn signal(&self, what: Signal) {
        let parent = i32::try_from(self.child.id()).unwrap();
        let before = children(parent);
        signal(parent, what);
        // Also those that it has started since; some may have ended.
        for child in before.into_iter().chain(children(parent)) {
            kill(Pid::from_raw(child), what).ok();
        }
    }

    /// Kills the store with SIGKILL; returns its folder.
    pub fn kill_9(mut self) -> TempDir {
        self.end();
        std::mem::replace(&mut self.dir, folder())
    }

    /// Stops the store cleanly, even if connections are open; returns its folder.
    pub fn stop(mut self) -> TempDir {
        signal(i32::try_from(self.child.id()).unwrap(), Signal::SIGINT);
        self.child.wait().unwrap();
        std::mem::replace(&mut self.dir, folder())
    }

    fn end(&mut self) {
        // Postgres's children end by themselves afterwards.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for ExternalStore {
    fn drop(&mut self) {
        self.end();
    }
}

/// The processes that this one has started and that still run.
fn children(parent: i32) -> Vec<i32> {
    let ids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let parent_of = |id: &i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    ids.filter(|id| parent_of(id) == Some(parent)).collect()
}

/// A folder that the stores' user may write to.
pub fn folder() -> TempDir {
    let dir = temp_dir("seckill-external-");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

/// The program as an unprivileged user: Postgres refuses to run as root.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/tmp");
    if Uid::effective().is_root() {
        command.uid(UNPRIVILEGED_ID).gid(UNPRIVILEGED_ID);
    }
    command
}

fn postgres_bin() -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql").unwrap().map(|entry| entry.unwrap().path());
    installed.map(|path| path.join("bin")).filter(|bin| bin.join("initdb").exists()).max().unwrap()
}

fn quiet(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
