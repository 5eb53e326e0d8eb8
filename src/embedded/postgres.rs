//! Postgres as an embedded store: its settings, its processes, its stale files. `initialise.rs` has the first start;
//! the migrations create the tables.

mod initialise;
pub mod readiness;

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::process::Command;

use super::layout::{POSTGRES_CLUSTER, POSTGRES_FOLDER, POSTGRES_LOG, POSTGRES_SOCKET};
use super::log_file::LogFile;
use super::process::{Process, Role};
use super::programs::Programs;
use super::store::Store;
use super::user::StoreFolder;

/// Postgres's own lock file, in the cluster.
const LOCK: &str = "postmaster.pid";

/// The server of one data directory.
pub struct Postgres {
    bin: PathBuf,
    version: u32,
    folder: StoreFolder,
    socket_dir: PathBuf,
    /// The start of each process's title: distinguishes this server's processes from those of other servers.
    name: String,
    log: LogFile,
}

/// The major version that made the cluster in this data directory; `None` if there is no cluster yet.
///
/// # Errors
/// When the version cannot be read.
pub fn cluster_version(data_dir: &Path) -> Result<Option<u32>> {
    let path = data_dir.join(POSTGRES_FOLDER).join(POSTGRES_CLUSTER).join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let version =
                text.trim().parse().with_context(|| format!("{} holds no version", path.display()))?;
            Ok(Some(version))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}: run this as its owner", path.display())),
    }
}

impl Postgres {
    /// `name` must be unique on this machine.
    pub fn new(programs: &Programs, folder: StoreFolder, socket_dir: PathBuf, name: String) -> Self {
        let log = LogFile::new(folder.path.join(POSTGRES_LOG));
        let Programs { postgres_bin: bin, postgres_version: version, .. } = programs;
        Self { bin: bin.clone(), version: *version, folder, socket_dir, name, log }
    }

    fn cluster(&self) -> PathBuf {
        self.folder.path.join(POSTGRES_CLUSTER)
    }

    /// Settings for the command line, which overrides `alter system`: so durability cannot be switched off.
    fn settings(&self) -> Vec<OsString> {
        // The setting is a list of folders: quotes allow a space or a comma in the path.
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
            // Recovery flushes the file system once instead of a thousand files one by one.
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
        let mut command = self.folder.user.command(&self.bin.join("postgres"), &self.folder.path);
        command.arg("-D").arg(self.cluster());
        for setting in self.settings() {
            command.arg("-c").arg(setting);
        }
        command
    }

    /// Fast shutdown: does not wait until clients disconnect.
    fn stop_signal(&self) -> Signal {
        Signal::SIGINT
    }

    /// Immediate shutdown: the next start recovers as after a crash.
    fn quit_signal(&self) -> Signal {
        Signal::SIGQUIT
    }

    fn role_of(&self, process: &Process) -> Option<Role> {
        if process.title().starts_with(format!("postgres: {}:", self.name).as_bytes()) {
            return Some(Role::Child);
        }
        // Servers that `initdb` starts get their cluster from the environment.
        let cluster = process.value_of("-D").or_else(|| process.folder());
        let is_ours = cluster.is_some_and(|path| path.starts_with(&self.folder.path));
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

    /// Removes lock files: no process of this cluster is left, so each lock file is stale. Postgres would refuse to
    /// start if another process now has the file's pid, or if the file is empty or garbled.
    fn remove_stale_files(&self) -> Result<()> {
        let socket = self.socket_dir.join(POSTGRES_SOCKET);
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
            let process = Process::read(pid);
            let is_hidden = process.folder().is_none() && process.value_of("-D").is_none();
            if process.is_program("postgres") && is_hidden {
                bail!(
                    "{} names process {pid}, which is a Postgres, and this user may not read its working directory: \
                     stop that process, or remove the file if the process belongs to another server",
                    lock.display()
                );
            }
        }
        remove_if_present(&lock)
    }

    async fn is_ready(&self) -> Result<bool> {
        // Reads the lock file first, since a starting server logs a line for each connection that it refuses.
        let status = fs::read_to_string(self.cluster().join(LOCK)).unwrap_or_default();
        if status.lines().nth(7).map(str::trim) != Some("ready") {
            return Ok(false);
        }
        readiness::is_ready(&self.socket_dir.join(POSTGRES_SOCKET)).await
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
