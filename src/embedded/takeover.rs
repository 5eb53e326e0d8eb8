//! Makes sure that no process of a store is left before the next one starts on the same folder, and
//! when it stops. A file lock that the store's processes share says whether any is left, whatever
//! its pid; only processes that /proc shows to be on this very folder are ever signalled.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc::O_NOFOLLOW;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::supervise::Store;
use crate::config;
use crate::disk::STORE_LOCK;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The server, which stops its children itself.
    Main,
    /// A process that a server forked; it may outlive the server.
    Child,
}

/// How long each of the three signals has to take effect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    clean: Duration,
    harsh: Duration,
}

impl Patience {
    const AT_START: Self = Self { clean: config::STORE_STOP_TIMEOUT, harsh: config::STORE_KILL_TIMEOUT };

    /// Whatever remains is the clean stop's, but for the harsher signals' time.
    pub fn until(deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(Instant::now());
        let harsh = config::STORE_LAST_SIGNAL_TIMEOUT;
        Self { clean: left.saturating_sub(2 * harsh), harsh }
    }
}

/// Before a start: stops what an earlier program left, and answers the lock that proves that nothing is.
pub(super) async fn take_over<S: Store>(store: &S) -> Result<File> {
    for pid in processes(store, Role::Main) {
        warn!(
            store.name = store.name(),
            process.pid = pid.as_raw(),
            "{} was left running by a program that was killed: stopping process {pid}",
            store.name()
        );
    }
    clear(store, None, Patience::AT_START).await
}

/// Stops whatever process of the store there is, `known` among them, and answers the lock that
/// proves that none is left.
pub(super) async fn clear<S: Store>(store: &S, known: Option<Pid>, patience: Patience) -> Result<File> {
    // Each holds the lock; but a lock file that was deleted by hand proves nothing.
    if known.is_none()
        && processes(store, Role::Main).is_empty()
        && let Some(alive) = try_take(store)?
    {
        return Ok(alive);
    }
    for step in [Step::Clean, Step::Quit, Step::Kill] {
        let patience = signal_all(store, known, step, patience)?;
        let deadline = Instant::now() + patience;
        loop {
            if let Some(alive) = try_take(store)?
                && (known.is_some() || processes(store, Role::Main).is_empty())
            {
                return Ok(alive);
            }
            if Instant::now() >= deadline {
                break;
            }
            sleep(config::STORE_POLL).await;
        }
        warn!(store.name = store.name(), "a process of {} is still there after {patience:?}", store.name());
    }
    bail!(
        "{} still runs on {}: find its process with `fuser {}` and stop it",
        store.name(),
        store.folder().path.display(),
        store.folder().path.join(STORE_LOCK).display()
    )
}

#[derive(Clone, Copy)]
enum Step {
    Clean,
    Quit,
    Kill,
}

/// Answers how long to wait for the effect.
fn signal_all<S: Store>(store: &S, known: Option<Pid>, step: Step, patience: Patience) -> Result<Duration> {
    let mains = known.map_or_else(|| processes(store, Role::Main), |pid| vec![pid]);
    let children = processes(store, Role::Child);
    let (signal, patience) = match step {
        Step::Clean if mains.is_empty() => return Ok(config::STORE_ORPHANS_TIMEOUT.min(patience.clean)),
        Step::Clean => (store.stop_signal(), patience.clean),
        Step::Quit => (store.quit_signal(), patience.harsh),
        Step::Kill => (Signal::SIGKILL, patience.harsh),
    };
    for pid in &mains {
        send(store, *pid, signal)?;
    }
    for pid in children {
        if matches!(step, Step::Quit | Step::Kill) {
            send(store, pid, signal)?;
        }
        send(store, pid, Signal::SIGCONT)?;
    }
    for pid in mains {
        // A stopped process takes a signal only once it is continued.
        send(store, pid, Signal::SIGCONT)?;
    }
    Ok(patience)
}

fn send<S: Store>(store: &S, pid: Pid, signal: Signal) -> Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("cannot stop process {pid} of {}", store.name())),
    }
}

fn try_take<S: Store>(store: &S) -> Result<Option<File>> {
    let path = store.folder().path.join(STORE_LOCK);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// A process as /proc shows it: what it was told and where it works.
pub(super) struct Process {
    command_line: Vec<u8>,
    /// `None` where another user's process may not be looked at.
    folder: Option<PathBuf>,
}

impl Process {
    /// Of one that has ended, the command line is empty.
    pub fn look(pid: Pid) -> Self {
        Self {
            command_line: fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default(),
            folder: fs::read_link(format!("/proc/{pid}/cwd")).ok(),
        }
    }

    pub fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        self.command_line.split(|byte| *byte == 0)
    }

    pub fn title(&self) -> &[u8] {
        self.arguments().next().unwrap_or_default()
    }

    /// Whether its program has this file name.
    pub fn is_program(&self, name: &str) -> bool {
        self.title().rsplit(|byte| *byte == b'/').next() == Some(name.as_bytes())
    }

    pub fn has_argument(&self, argument: &str) -> bool {
        self.arguments().any(|arg| arg == argument.as_bytes())
    }

    /// What follows an option.
    pub fn value_of(&self, option: &str) -> Option<&Path> {
        let value = self.arguments().skip_while(|arg| *arg != option.as_bytes()).nth(1)?;
        Some(Path::new(OsStr::from_bytes(value)))
    }

    /// Its working directory; `None` where it may not be looked at.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }
}

fn processes<S: Store>(store: &S, role: Role) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
        .filter(|pid| store.role_of(&Process::look(*pid)) == Some(role))
        .collect()
}
