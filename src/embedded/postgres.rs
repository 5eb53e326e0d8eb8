//! Postgres as an embedded store: its settings, its processes and how to tell that it is ready.
//! Tables are the migrations' work.

mod greet;
mod initialise;

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::process::Command;

use super::log_file::LogFile;
use super::supervise::Store;
use super::takeover::{Process, Role};
use super::{Programs, StoreFolder};
pub(super) use greet::is_ready;

pub(super) const FOLDER: &str = "postgres";
pub(super) const SOCKET: &str = ".s.PGSQL.5432";
pub(super) const LOG: &str = "postgres.log";
pub(super) const USER: &str = "seckill";
pub(super) const DATABASE: &str = "seckill";
/// The cluster, in the store's folder; beside it are the socket and the log.
const CLUSTER: &str = "cluster";
/// Postgres's own lock file, in the cluster.
const LOCK: &str = "postmaster.pid";

pub(super) struct Postgres {
    bin: PathBuf,
    version: u32,
    folder: StoreFolder,
    socket_dir: PathBuf,
    /// Starts the title of each process, which tells ours from another server's.
    name: String,
    log: LogFile,
}

/// The major version that wrote the cluster in this data directory, if there is one.
pub(super) fn version_in_use(data_dir: &Path) -> Result<Option<u32>> {
    let path = data_dir.join(FOLDER).join(CLUSTER).join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let version = text.trim().parse().with_context(|| format!("{} is no version", path.display()))?;
            Ok(Some(version))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}: run this as its owner", path.display())),
    }
}

impl Postgres {
    pub fn new(programs: &Programs, folder: StoreFolder, socket_dir: PathBuf, name: String) -> Self {
        let log = LogFile::new(folder.path.join(LOG));
        let Programs { postgres_bin: bin, postgres_version: version, .. } = programs;
        Self { bin: bin.clone(), version: *version, folder, socket_dir, name, log }
    }

    fn cluster(&self) -> PathBuf {
        self.folder.path.join(CLUSTER)
    }

    /// On the command line, where `alter system` cannot take durability away.
    fn settings(&self) -> Vec<OsString> {
        // A list of folders: quoted, so that a space or comma inside is no separator.
        let socket_dir = self.socket_dir.as_os_str().as_bytes();
        let mut sockets = b"unix_socket_directories=\"".to_vec();
        for byte in socket_dir {
            sockets.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
        }
        sockets.push(b'"');
        let mut settings: Vec<OsString> = [
            "listen_addresses=",
            "unix_socket_permissions=0700",
            "port=5432",
            "fsync=on",
            "synchronous_commit=on",
            "full_page_writes=on",
            "max_connections=100",
            "shared_buffers=128MB",
            "max_wal_size=1GB",
            "jit=off",
            "logging_collector=off",
            "log_destination=stderr",
            "log_checkpoints=off",
            "log_timezone=UTC",
            "timezone=UTC",
        ]
        .map(OsString::from)
        .into();
        if self.version >= 14 {
            // Recovery flushes the disk once, not a thousand files one after the other.
            settings.push("recovery_init_sync_method=syncfs".into());
        }
        settings.push(format!("cluster_name={}", self.name).into());
        settings.push(OsString::from_vec(sockets));
        settings
    }
}

impl Store for Postgres {
    fn name(&self) -> &'static str {
        "Postgres"
    }

    fn folder(&self) -> &StoreFolder {
        &self.folder
    }

    fn log(&self) -> &LogFile {
        &self.log
    }

    fn command(&self) -> Command {
        let mut command = self.folder.account.command(&self.bin.join("postgres"), &self.folder.path);
        command.arg("-D").arg(self.cluster());
        for setting in self.settings() {
            command.arg("-c").arg(setting);
        }
        command
    }

    /// The fast shutdown, which does not wait for clients to leave.
    fn stop_signal(&self) -> Signal {
        Signal::SIGINT
    }

    /// The immediate shutdown, after which Postgres recovers as from a crash.
    fn quit_signal(&self) -> Signal {
        Signal::SIGQUIT
    }

    fn role_of(&self, process: &Process) -> Option<Role> {
        if process.title().starts_with(format!("postgres: {}:", self.name).as_bytes()) {
            return Some(Role::Child);
        }
        // `initdb` tells its own servers their cluster by environment.
        let named = process.value_of("-D").or_else(|| process.folder());
        let is_ours = named.is_some_and(|path| path.starts_with(&self.folder.path));
        if !is_ours {
            return None;
        }
        let is_boot = process.is_program("postgres") && process.has_argument("--boot");
        let is_main = process.is_program("postgres") || process.is_program("initdb");
        match (is_boot, is_main) {
            (true, _) => Some(Role::Child),
            (false, true) => Some(Role::Main),
            (false, false) => None,
        }
    }

    /// Postgres takes a lock file for valid when its pid lives again as any other process: of an empty or garbled
    /// one it makes nothing at all. No process of this cluster is left here, so each lock file is stale.
    fn clear_remains(&self) -> Result<()> {
        let socket = self.socket_dir.join(SOCKET);
        let mut socket_lock = socket.clone().into_os_string();
        socket_lock.push(".lock");
        remove_if_present(&socket)?;
        remove_if_present(Path::new(&socket_lock))?;
        let lock = self.cluster().join(LOCK);
        let pid = fs::read(&lock).ok().and_then(|text| {
            let text = String::from_utf8_lossy(&text);
            text.lines().next()?.trim().parse().ok().map(Pid::from_raw)
        });
        if let Some(pid) = pid {
            let process = Process::look(pid);
            let is_hidden = process.folder().is_none() && process.value_of("-D").is_none();
            if process.is_program("postgres") && is_hidden {
                bail!(
                    "process {pid} is a Postgres that {} names, and this user may not see where it works: \
                     stop it, or remove that file if it is another server's",
                    lock.display()
                );
            }
        }
        remove_if_present(&lock)
    }

    async fn is_ready(&self) -> Result<bool> {
        // Asked first, as each connection refused by a starting server is a line in its log.
        let status = fs::read_to_string(self.cluster().join(LOCK)).unwrap_or_default();
        if status.lines().nth(7).map(str::trim) != Some("ready") {
            return Ok(false);
        }
        is_ready(&self.socket_dir).await
    }
}

fn remove_if_present(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
