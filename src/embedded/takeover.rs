//! Makes sure that no process of a store is left before the next one starts on the same folder, and
//! when it stops. A file lock that the store's processes share says whether any is left, whatever
//! its pid; only processes whose command line names this very folder are ever signalled.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
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

/// Locked for as long as any process of the store lives: each has it open as its stdin.
const ALIVE: &str = "alive.lock";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The server, which stops its children itself.
    Main,
    /// A process that a server forked; it may outlive the server.
    Child,
}

/// Stops whatever process of the store there is, `known` among them, and answers the lock that
/// proves that none is left.
pub(super) async fn clear<S: Store>(store: &S, known: Option<Pid>) -> Result<File> {
    if known.is_none() {
        if let Some(alive) = try_take(store)? {
            return Ok(alive);
        }
        for pid in processes(store, Role::Main) {
            warn!(
                store.name = store.name(),
                process.pid = pid.as_raw(),
                "{} was left running by a program that was killed: stopping process {pid}",
                store.name()
            );
        }
    }
    for step in [Step::Clean, Step::Quit, Step::Kill] {
        let patience = signal_all(store, known, step)?;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(alive) = try_take(store)? {
                return Ok(alive);
            }
            sleep(config::STORE_POLL).await;
        }
        warn!(store.name = store.name(), "a process of {} is still there after {patience:?}", store.name());
    }
    bail!(
        "{} still runs on {}: find its process with `fuser {}` and stop it",
        store.name(),
        store.folder().path.display(),
        store.folder().path.join(ALIVE).display()
    )
}

#[derive(Clone, Copy)]
enum Step {
    Clean,
    Quit,
    Kill,
}

/// Answers how long to wait for the effect.
fn signal_all<S: Store>(store: &S, known: Option<Pid>, step: Step) -> Result<Duration> {
    let mains = known.map_or_else(|| processes(store, Role::Main), |pid| vec![pid]);
    let (signal, patience) = match step {
        Step::Clean if mains.is_empty() => return Ok(config::STORE_ORPHANS_TIMEOUT),
        Step::Clean => (store.stop_signal(), config::STORE_STOP_TIMEOUT),
        Step::Quit => (store.quit_signal(), config::STORE_KILL_TIMEOUT),
        Step::Kill => (Signal::SIGKILL, config::STORE_KILL_TIMEOUT),
    };
    let children = match step {
        Step::Clean => Vec::new(),
        Step::Quit | Step::Kill => processes(store, Role::Child),
    };
    for pid in mains.into_iter().chain(children) {
        match kill(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(e) => {
                return Err(e).with_context(|| format!("cannot stop process {pid} of {}", store.name()));
            }
        }
    }
    Ok(patience)
}

fn try_take<S: Store>(store: &S) -> Result<Option<File>> {
    let path = store.folder().path.join(ALIVE);
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

fn processes<S: Store>(store: &S, role: Role) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
        .filter(|pid| with_arguments(*pid, |args| store.role_of(args) == Some(role)))
        .collect()
}

/// Looks at a process's command line; it is empty for one that has ended.
pub(super) fn with_arguments(pid: Pid, matches: impl FnOnce(&[&[u8]]) -> bool) -> bool {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let args: Vec<&[u8]> = command_line.split(|byte| *byte == 0).collect();
    matches(&args)
}

/// Whether the program of a command line has this file name.
pub(super) fn is_program(args: &[&[u8]], name: &str) -> bool {
    args.first().and_then(|program| program.rsplit(|byte| *byte == b'/').next()) == Some(name.as_bytes())
}

/// Whether `option` is followed by `value`.
pub(super) fn has_option(args: &[&[u8]], option: &str, value: &[u8]) -> bool {
    args.windows(2).any(|pair| pair[0] == option.as_bytes() && pair[1] == value)
}
