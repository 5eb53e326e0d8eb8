//! Redis as an embedded store: its settings and how to tell that it is ready.

mod damage;

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;

use super::StoreFolder;
use super::log_file::LogFile;
use super::supervise::Store;
use super::takeover::{Process, Role};
use crate::config;

pub(super) const FOLDER: &str = "redis";
pub(super) const SOCKET: &str = "redis.sock";
pub(super) const LOG: &str = "redis.log";

pub(super) struct Redis {
    program: PathBuf,
    folder: StoreFolder,
    socket: PathBuf,
    log: LogFile,
}

impl Redis {
    pub fn new(program: PathBuf, folder: StoreFolder, socket: PathBuf) -> Self {
        let log = LogFile::new(folder.path.join(LOG));
        Self { program, folder, socket, log }
    }

    /// On the command line rather than in a file: it holds no secret, and names the folder for
    /// whoever has to tell this process from another Redis.
    fn arguments(&self) -> Vec<OsString> {
        let settings = [
            ["--port", "0"],
            ["--unixsocketperm", "700"],
            ["--daemonize", "no"],
            ["--databases", "1"],
            // An accepted claim is durable before it is answered, and is never evicted.
            ["--appendonly", "yes"],
            ["--appendfsync", "always"],
            // Rewriting the log holds every claim up for a moment; at the default of 64 MB it comes after 200,000 of them.
            ["--auto-aof-rewrite-min-size", "256mb"],
            ["--maxmemory-policy", "noeviction"],
            // Smaller hashes are looked through from their beginning: the holders of a hundred units for every claim.
            ["--hash-max-listpack-entries", "32"],
            ["--aof-load-truncated", "yes"],
            ["--save", ""],
            // The arguments stay readable in /proc; a forked child is named after the socket.
            ["--set-proc-title", "no"],
            ["--proc-title-template", "{title} {unixsocket}"],
        ]
        .concat();
        // The paths come first: Redis refuses a title that is made of what it does not know yet.
        let mut arguments: Vec<OsString> = vec![
            "--dir".into(),
            self.folder.path.clone().into(),
            "--unixsocket".into(),
            self.socket.clone().into(),
        ];
        arguments.extend(settings.into_iter().map(OsString::from));
        arguments
    }
}

impl Store for Redis {
    fn name(&self) -> &'static str {
        "Redis"
    }

    fn folder(&self) -> &StoreFolder {
        &self.folder
    }

    fn log(&self) -> &LogFile {
        &self.log
    }

    fn command(&self) -> Command {
        let mut command = self.folder.account.command(&self.program, &self.folder.path);
        command.args(self.arguments());
        command
    }

    fn stop_signal(&self) -> Signal {
        Signal::SIGTERM
    }

    fn quit_signal(&self) -> Signal {
        Signal::SIGKILL
    }

    fn role_of(&self, process: &Process) -> Option<Role> {
        if process.is_program("redis-server") && process.value_of("--dir") == Some(&self.folder.path) {
            return Some(Role::Main);
        }
        let title = process.title();
        let is_child = title.starts_with(b"redis-") && title.ends_with(self.socket.as_os_str().as_bytes());
        is_child.then_some(Role::Child)
    }

    fn advice(&self, said: &[String]) -> Option<String> {
        damage::advice(&self.folder.path, said)
    }

    fn least_room_bytes(&self) -> u64 {
        config::REDIS_START_MIN_FREE_BYTES
    }

    /// Redis replaces a stale socket itself, but keeps the half-written files of killed children.
    fn clear_remains(&self) -> Result<()> {
        let folder = &self.folder.path;
        for entry in
            fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?.flatten()
        {
            let name = entry.file_name();
            let name = name.as_bytes();
            if name.starts_with(b"temp-") && (name.ends_with(b".aof") || name.ends_with(b".rdb")) {
                fs::remove_file(entry.path())
                    .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    async fn is_ready(&self) -> Result<bool> {
        is_ready(&self.socket).await
    }
}

/// Whether a Redis answers there that has finished loading.
pub(super) async fn is_ready(socket: &Path) -> Result<bool> {
    match ping(socket).await {
        Ok(answer) => Ok(!answer.is_empty() && !answer.starts_with(b"-LOADING")),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(e).with_context(|| {
            format!("cannot use {}: run this as the user that runs the server", socket.display())
        }),
        Err(_) => Ok(false),
    }
}

async fn ping(socket: &Path) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = vec![0; 64];
    let length = stream.read(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}
