//! Stops every process of a store: when the program stops, and before a start on the same folder. The processes of the
//! store inherit a file lock; a free lock proves that none is left. Process ids are reused and prove nothing. Only
//! processes that use this folder according to /proc get a signal.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc::O_NOFOLLOW;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::process::{Process, Role};
use super::store::Store;
use crate::config;
use crate::disk::STORE_LOCK;

/// How long each of the three signals has to take effect.
#[derive(Clone, Copy, Debug)]
pub struct StopTimeouts {
    clean: Duration,
    /// For each of the two stronger signals.
    forced: Duration,
}

impl StopTimeouts {
    /// Gives the clean stop all the time that the stronger signals do not need. With little time left, each signal gets
    /// a third of it: the last one must be sent before the program has to exit.
    pub fn until(deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(Instant::now());
        let forced = config::STORE_LAST_SIGNAL_TIMEOUT.min(left / 3);
        Self { clean: left.saturating_sub(2 * forced), forced }
    }
}

/// Before a start: stops processes that a killed program left behind, and returns the lock.
///
/// # Errors
/// As for [`stop_all`].
pub async fn stop_left_over<S: Store>(store: &S) -> Result<File> {
    let name = store.name();
    for pid in processes(store, Role::Main) {
        warn!(
            store.name = name,
            process.pid = pid.as_raw(),
            "{name} was left running by a program that was killed: stopping process {pid}"
        );
    }
    let timeouts = StopTimeouts { clean: config::STORE_STOP_TIMEOUT, forced: config::STORE_KILL_TIMEOUT };
    stop_all(store, None, timeouts).await
}

/// Stops all processes of the store, `known` included, and returns the lock: to hold it proves that no process is left.
///
/// # Errors
/// When a process is still there after the last signal, or may not be signalled, or the lock cannot be opened.
pub async fn stop_all<S: Store>(store: &S, known: Option<Pid>, timeouts: StopTimeouts) -> Result<File> {
    // Also reads /proc: after the operator has deleted the lock file, a new lock proves nothing.
    if known.is_none()
        && processes(store, Role::Main).is_empty()
        && let Some(lock) = try_lock(store)?
    {
        return Ok(lock);
    }
    for step in [Step::Clean, Step::Quit, Step::Kill] {
        let timeout = signal_all(store, known, step, timeouts)?;
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(lock) = try_lock(store)?
                && (known.is_some() || processes(store, Role::Main).is_empty())
            {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                break;
            }
            sleep(config::STORE_POLL).await;
        }
        warn!(store.name = store.name(), "a process of {} is still there after {timeout:?}", store.name());
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

/// Sends a signal to all processes of the store; returns how long to wait for the effect.
fn signal_all<S: Store>(
    store: &S,
    known: Option<Pid>,
    step: Step,
    timeouts: StopTimeouts,
) -> Result<Duration> {
    let mains = known.map_or_else(|| processes(store, Role::Main), |pid| vec![pid]);
    let children = processes(store, Role::Child);
    let (signal, timeout) = match step {
        Step::Clean if mains.is_empty() => return Ok(config::STORE_ORPHANS_TIMEOUT.min(timeouts.clean)),
        Step::Clean => (store.stop_signal(), timeouts.clean),
        Step::Quit => (store.quit_signal(), timeouts.forced),
        Step::Kill => (Signal::SIGKILL, timeouts.forced),
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
        // A suspended process handles a signal only after SIGCONT.
        send(store, pid, Signal::SIGCONT)?;
    }
    Ok(timeout)
}

fn send<S: Store>(store: &S, pid: Pid, signal: Signal) -> Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("cannot stop process {pid} of {}", store.name())),
    }
}

/// `None` while a process of the store holds the lock.
fn try_lock<S: Store>(store: &S) -> Result<Option<File>> {
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

fn processes<S: Store>(store: &S, role: Role) -> Vec<Pid> {
    Process::all().filter(|pid| store.role_of(&Process::read(*pid)) == Some(role)).collect()
}
