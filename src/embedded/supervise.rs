//! Keeps one store running: restarts the server when it ends, and stops it when the program stops. `starting.rs` has
//! one start of a server, `stopping.rs` the stop of its processes.

use std::process::ExitStatus;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use backon::{BackoffBuilder, ExponentialBuilder};
use nix::unistd::Pid;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::failure;
use super::starting::{Running, start_once};
use super::stopping::{self, StopTimeouts};
use super::store::Store;
use crate::tasks::Tasks;
use crate::{config, disk};

/// The task that keeps a store running. Dropping this value requests the store's stop, without waiting for it.
pub struct Supervisor {
    stop: CancellationToken,
    /// Set before `stop` is cancelled.
    end: Arc<OnceLock<End>>,
    task: JoinHandle<Option<Result<Option<Pid>>>>,
}

/// How the supervision of a store ends.
#[derive(Clone, Copy)]
enum End {
    /// The store stops until then.
    StopBy(Instant),
    /// The store stays for another program.
    Leave,
}

impl Supervisor {
    /// Returns once the store is ready; `None` when `stop` comes first. After `None` or an error, no process of the
    /// store is left.
    ///
    /// # Errors
    /// When the store does not start.
    pub async fn start<S: Store>(store: S, stop: &CancellationToken, tasks: &Tasks) -> Result<Option<Self>> {
        let started = stop.run_until_cancelled(start_once(&store)).await;
        let Some(Ok(running)) = started else {
            let by = Instant::now() + config::STORES_STOP_TIMEOUT;
            let stopped = stopping::stop_all(&store, None, StopTimeouts::until(by)).await;
            return match started {
                Some(Err(error)) => Err(error),
                _ => stopped.map(|_| None),
            };
        };
        Ok(Some(Self::supervise(store, Some(running), tasks)))
    }

    /// Supervises a server that an earlier program has left running. Without one, or if the id is not that of a server
    /// of the store, starts a new server, after it has stopped what is left in the folder.
    pub fn adopt<S: Store>(store: S, pid: Option<i32>, tasks: &Tasks) -> Self {
        let running = pid.and_then(|pid| {
            let adopted = Running::adopt(&store, Pid::from_raw(pid));
            let name = store.name();
            adopted
                .inspect_err(|error| {
                    warn!(
                        store.name = name,
                        "process {pid} cannot be adopted, {name} starts again: {error:#}"
                    );
                })
                .ok()
        });
        Self::supervise(store, running, tasks)
    }

    fn supervise<S: Store>(store: S, mut running: Option<Running>, tasks: &Tasks) -> Self {
        let (stop, end) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let name = format!("supervisor of {}", store.name());
        let store = Arc::new(store);
        let (stopped, how) = (stop.clone(), end.clone());
        // After a panic, the next run of this task has no server: the drop of `Running` has stopped the old one. It
        // starts a new one.
        let make = move || keep_running(store.clone(), running.take(), stopped.clone(), how.clone());
        let task = tokio::spawn(tasks.supervise(&name, Some(config::TASK_MAX_IDLE), &stop, make));
        Self { stop, end, task }
    }

    /// Stops the store and waits until all its processes have ended.
    ///
    /// # Errors
    /// When the server did not stop cleanly, or a process is still there at the deadline.
    pub async fn stop_by(self, deadline: Instant) -> Result<()> {
        self.end_with(End::StopBy(deadline)).await.map(drop)
    }

    /// Leaves the store running for another program; returns the id of its process, if it runs now.
    ///
    /// # Errors
    /// When the task has failed; then the store stops.
    pub async fn leave(self) -> Result<Option<Pid>> {
        self.end_with(End::Leave).await
    }

    async fn end_with(mut self, end: End) -> Result<Option<Pid>> {
        self.end.get_or_init(|| end);
        self.stop.cancel();
        let outcome = (&mut self.task).await.context("the task that supervises a store failed")?;
        outcome.context("the task that supervises a store panicked")?
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

async fn keep_running<S: Store>(
    store: Arc<S>,
    mut running: Option<Running>,
    stop: CancellationToken,
    end: Arc<OnceLock<End>>,
) -> Result<Option<Pid>> {
    let store = &*store;
    let end =
        || end.get().copied().unwrap_or_else(|| End::StopBy(Instant::now() + config::STORES_STOP_TIMEOUT));
    let mut delays = restart_delays();
    loop {
        let mut server = match running.take() {
            Some(server) => server,
            None => match stop.run_until_cancelled(restart(store, &mut delays)).await {
                Some(server) => server,
                None => return end_without_server(store, end()).await,
            },
        };
        let started = Instant::now();
        let Some(status) = stop.run_until_cancelled(wait_for_end(store, &mut server)).await else {
            return match end() {
                End::Leave => Ok(server.leave()),
                End::StopBy(deadline) => stop_server(store, server, StopTimeouts::until(deadline)).await,
            };
        };
        drop(server);
        let name = store.name();
        if matches!(&status, Ok(Some(status)) if status.success()) {
            info!(store.name = name, "{name} was told to stop and is started again");
        } else {
            let (status, reason) = (failure::describe(status), failure::reason(store));
            error!(store.name = name, "{name} died ({status}) and is started again: {reason}");
        }
        if started.elapsed() >= config::STORE_RESTART_RESET_AFTER {
            delays = restart_delays();
        }
    }
}

/// Waits until the server ends; keeps the size of its log bounded.
async fn wait_for_end<S: Store>(store: &S, server: &mut Running) -> std::io::Result<Option<ExitStatus>> {
    let mut checks = interval(config::STORE_LOG_CHECK_INTERVAL);
    loop {
        tokio::select! {
            status = server.wait() => return status,
            _ = checks.tick() => {
                if let Err(e) = store.log().truncate_if_large() {
                    warn!(error = %e, store.name = store.name(), "could not truncate {}", store.log().path().display());
                }
            }
        }
    }
}

/// Starts the server again and again, until it is ready.
async fn restart<S: Store>(store: &S, delays: &mut (impl Iterator<Item = Duration> + Send)) -> Running {
    let name = store.name();
    let mut logged: Option<(String, Instant)> = None;
    loop {
        sleep(delays.next().unwrap_or(config::STORE_RESTART_MAX)).await;
        wait_for_free_space(store).await;
        let reason = match start_once(store).await {
            Ok(server) => {
                info!(store.name = name, "{name} is back");
                return server;
            }
            Err(e) => format!("{e:#}"),
        };
        // Logs a failure once: each attempt may fail in the same way until the operator helps.
        let is_new = logged.as_ref().is_none_or(|(last, at)| {
            failure::without_log_lines(last) != failure::without_log_lines(&reason)
                || at.elapsed() >= config::STORE_FAILING_NOTICE_INTERVAL
        });
        if is_new {
            error!(store.name = name, "{reason}");
            logged = Some((reason, Instant::now()));
        }
    }
}

async fn wait_for_free_space<S: Store>(store: &S) {
    let folder = &store.folder().path;
    let is_full = || disk::space(folder).is_some_and(|space| space.free_bytes < store.min_free_bytes());
    if !is_full() {
        return;
    }
    let (name, shortage) = (store.name(), disk::shortage(folder).unwrap_or_default());
    error!(store.name = name, "{shortage}: {name} is started again as soon as there is room");
    while is_full() {
        sleep(config::DISK_POLL).await;
    }
}

fn restart_delays() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(config::STORE_RESTART_MIN)
        .with_max_delay(config::STORE_RESTART_MAX)
        .without_max_times()
        .build()
}

async fn end_without_server<S: Store>(store: &S, end: End) -> Result<Option<Pid>> {
    if let End::StopBy(deadline) = end {
        stopping::stop_all(store, None, StopTimeouts::until(deadline)).await?;
    }
    Ok(None)
}

async fn stop_server<S: Store>(
    store: &S,
    mut server: Running,
    timeouts: StopTimeouts,
) -> Result<Option<Pid>> {
    stopping::stop_all(store, server.pid(), timeouts).await?;
    let status = server.wait().await.with_context(|| format!("cannot wait for {}", store.name()))?;
    if let Some(status) = status.filter(|status| !status.success()) {
        bail!("{} did not stop cleanly ({status}): {}", store.name(), failure::reason(store));
    }
    Ok(None)
}
