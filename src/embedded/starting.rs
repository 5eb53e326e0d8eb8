//! One start of a store: stops processes that an earlier run left, starts the server and waits until it is ready.
//! `supervise.rs` decides when a store is started again.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::store::Store;
use super::{failure, stopping};
use crate::config;

/// A running server. A drop requests its stop, without waiting for it.
pub struct Running {
    pub child: Child,
    stop_signal: Signal,
}

impl Running {
    /// `None` once it has ended.
    pub fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = self.pid()
            && let Err(e) = kill(pid, self.stop_signal)
        {
            warn!(error = %e, process.pid = pid.as_raw(), "could not signal process {pid}");
        }
    }
}

/// Starts the server once and returns when it is ready.
///
/// # Errors
/// When an earlier process cannot be stopped, or the server ends or reports that it cannot start.
pub async fn start_once<S: Store>(store: &S) -> Result<Running> {
    let lock = stopping::stop_left_over(store).await?;
    store.remove_stale_files()?;
    let log = store.log().open().with_context(|| format!("cannot open {}", store.log().path().display()))?;
    let mut command = store.command();
    command
        // The store and its children hold the lock until the last of them ends.
        .stdin(Stdio::from(lock))
        .stdout(Stdio::from(log.try_clone().context("cannot share the log")?))
        .stderr(Stdio::from(log));
    let child = command
        .spawn()
        .with_context(|| format!("cannot run {}", command.as_std().get_program().display()))?;
    let mut running = Running { child, stop_signal: store.stop_signal() };
    let ready = tokio::select! {
        ready = wait_until_ready(store) => ready,
        status = running.child.wait() => {
            let (status, reason) = (failure::describe(status), failure::reason(store));
            bail!("{} ended while starting ({status}): {reason}", store.name());
        }
    };
    ready.map(|()| running)
}

/// Without a timeout: a server that replays a large log takes long, and is still needed.
async fn wait_until_ready<S: Store>(store: &S) -> Result<()> {
    let started = Instant::now();
    let mut notice = config::STORE_STARTING_NOTICE_INTERVAL;
    loop {
        // A check that times out is repeated.
        if let Ok(answer) = timeout(config::STORE_PROBE_TIMEOUT, store.is_ready()).await
            && answer?
        {
            return Ok(());
        }
        if started.elapsed() >= notice {
            let (name, seconds) = (store.name(), started.elapsed().as_secs());
            let reason = failure::reason(store);
            warn!(store.name = name, "{name} is still starting after {seconds} s: {reason}");
            notice += config::STORE_STARTING_NOTICE_INTERVAL;
        }
        sleep(config::STORE_POLL).await;
    }
}
