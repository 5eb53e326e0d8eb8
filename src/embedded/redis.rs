//! Redis as an embedded store: its settings, its processes, its stale files, and whether it is ready.

mod repair_advice;

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

use super::layout::REDIS_LOG;
use super::log_file::LogFile;
use super::process::{Process, Role};
use super::store::Store;
use super::user::StoreFolder;
use crate::config;

/// The server of one data directory.
pub struct Redis {
    program: PathBuf,
    folder: StoreFolder,
    socket: PathBuf,
    log: LogFile,
}

impl Redis {
    pub fn new(program: PathBuf, folder: StoreFolder, socket: PathBuf) -> Self {
        let log = LogFile::new(folder.path.join(REDIS_LOG));
        Self { program, folder, socket, log }
    }

    /// The settings are on the command line instead of in a file: they contain no secret, and `role_of` and the
    /// operator recognise the process by its folder.
    fn arguments(&self) -> Vec<OsString> {
        let settings = [
            ["--port", "0"],
            ["--unixsocketperm", "700"],
            ["--daemonize", "no"],
            ["--databases", "1"],
            // An accepted claim is on disk before it is answered, and Redis never evicts it.
            ["--appendonly", "yes"],
            ["--appendfsync", "always"],
            // A rewrite of the log delays claims; with the default of 64 MB Redis would rewrite after 200,000 claims.
            ["--auto-aof-rewrite-min-size", "256mb"],
            ["--maxmemory-policy", "noeviction"],
            // Redis searches a hash of at most this many fields linearly: the default of 128 would slow down each
            // claim.
            ["--hash-max-listpack-entries", "32"],
            ["--aof-load-truncated", "yes"],
            ["--save", ""],
            // The arguments stay readable in /proc; the title of a forked child ends with the socket's path.
            ["--set-proc-title", "no"],
            ["--proc-title-template", "{title} {unixsocket}"],
        ]
        .concat();
        // The paths come first: Redis refuses a title template with a setting that it has not read yet.
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
        let mut command = self.folder.user.command(&self.program, &self.folder.path);
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

    fn repair_advice(&self, log_lines: &[String]) -> Option<String> {
        repair_advice::repair_advice(&self.folder.path, log_lines)
    }

    fn min_free_bytes(&self) -> u64 {
        config::REDIS_START_MIN_FREE_BYTES
    }

    /// Removes incomplete files of killed children. Redis replaces a stale socket itself.
    fn remove_stale_files(&self) -> Result<()> {
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

/// `false` while Redis loads its data, or if no server listens.
///
/// # Errors
/// When this user may not use the socket.
pub async fn is_ready(socket: &Path) -> Result<bool> {
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
