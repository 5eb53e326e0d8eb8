//! Keeps one store running: starts it, waits until it answers, starts it again when it dies, stops
//! it. Which store that is, is the `Store`'s business; processes that an earlier program left are
//! `takeover`'s.

use std::future::Future;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use backon::{BackoffBuilder, ExponentialBuilder};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep, timeout};
use tracing::{error, info, warn};

use super::log_file::LogFile;
use super::takeover::{self, Patience, Process, Role};
use super::{CancellationToken, StoreFolder};
use crate::config;

pub(super) trait Store: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    fn folder(&self) -> &StoreFolder;
    fn log(&self) -> &LogFile;
    /// The server in the foreground, its log on stderr or stdout.
    fn command(&self) -> Command;
    /// The signal for a clean stop.
    fn stop_signal(&self) -> Signal;
    /// The signal when that took too long.
    fn quit_signal(&self) -> Signal;
    /// Whether a process is this very store's.
    fn role_of(&self, process: &Process) -> Option<Role>;
    /// Called before each start, when no process of the store is left.
    fn clear_remains(&self) -> Result<()>;
    /// `false` while it starts; an error when waiting is no use.
    fn is_ready(&self) -> impl Future<Output = Result<bool>> + Send;
}

/// A store and the task that keeps it running.
pub(super) struct Supervised {
    stop: CancellationToken,
    /// Set before `stop` is cancelled.
    deadline: Arc<OnceLock<Instant>>,
    task: JoinHandle<Result<()>>,
}

impl Supervised {
    /// Returns once the store answers; `None` when told to stop before. Then, and after an error, no process of
    /// the store is left.
    pub async fn start<S: Store>(store: S, stop: &CancellationToken) -> Result<Option<Self>> {
        let started = stop.run_until_cancelled(bring_up(&store)).await;
        let Some(Ok(running)) = started else {
            let by = Instant::now() + config::STORES_STOP_WITHIN;
            let cleared = takeover::clear(&store, None, Patience::until(by)).await;
            return match started {
                Some(Err(error)) => Err(error),
                _ => cleared.map(|_| None),
            };
        };
        let (stop, deadline) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let task = tokio::spawn(keep_running(store, running, stop.clone(), deadline.clone()));
        Ok(Some(Self { stop, deadline, task }))
    }

    pub async fn stop_by(mut self, deadline: Instant) -> Result<()> {
        self.deadline.get_or_init(|| deadline);
        self.stop.cancel();
        (&mut self.task).await.context("the task that supervises a store failed")?
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A child that is asked to stop, though not waited for, when everything else is dropped.
struct Running {
    child: Child,
    stop_signal: Signal,
}

impl Running {
    fn pid(&self) -> Option<Pid> {
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

async fn keep_running<S: Store>(
    store: S,
    mut running: Running,
    stop: CancellationToken,
    deadline: Arc<OnceLock<Instant>>,
) -> Result<()> {
    let patience = || {
        let default = Instant::now() + config::STORES_STOP_WITHIN;
        Patience::until(deadline.get().copied().unwrap_or(default))
    };
    let mut delays = restart_delays();
    loop {
        let started = Instant::now();
        let Some(status) = stop.run_until_cancelled(watch(&store, &mut running)).await else {
            return stop_running(&store, running, patience()).await;
        };
        drop(running);
        error!(
            store.name = store.name(),
            "{} died ({}); starting it again. {}",
            store.name(),
            describe(status),
            last_words(&store)
        );
        if started.elapsed() >= config::STORE_RAN_WELL_AFTER {
            delays = restart_delays();
        }
        match stop.run_until_cancelled(restart(&store, &mut delays)).await {
            Some(restarted) => running = restarted,
            None => return takeover::clear(&store, None, patience()).await.map(drop),
        }
    }
}

/// Until the child ends.
async fn watch<S: Store>(store: &S, running: &mut Running) -> std::io::Result<ExitStatus> {
    let mut checks = interval(config::STORE_LOG_CHECK_INTERVAL);
    loop {
        tokio::select! {
            status = running.child.wait() => return status,
            _ = checks.tick() => {
                if let Err(e) = store.log().bound() {
                    warn!(error = %e, store.name = store.name(), "could not shorten {}", store.log().path().display());
                }
            }
        }
    }
}

async fn restart<S: Store>(store: &S, delays: &mut (impl Iterator<Item = Duration> + Send)) -> Running {
    loop {
        sleep(delays.next().unwrap_or(config::STORE_RESTART_MAX)).await;
        match bring_up(store).await {
            Ok(running) => {
                info!(store.name = store.name(), "{} is back", store.name());
                return running;
            }
            Err(e) => error!(store.name = store.name(), "{e:#}"),
        }
    }
}

fn restart_delays() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(config::STORE_RESTART_MIN)
        .with_max_delay(config::STORE_RESTART_MAX)
        .without_max_times()
        .build()
}

/// One attempt: clears what is left of an earlier run, starts the store, waits until it answers.
async fn bring_up<S: Store>(store: &S) -> Result<Running> {
    let alive = takeover::take_over(store).await?;
    store.clear_remains()?;
    let log = store.log().open().with_context(|| format!("cannot open {}", store.log().path().display()))?;
    let mut command = store.command();
    command
        // Held by the store and its children for as long as any of them lives: see `takeover`.
        .stdin(Stdio::from(alive))
        .stdout(Stdio::from(log.try_clone().context("cannot share the log")?))
        .stderr(Stdio::from(log));
    let child = command
        .spawn()
        .with_context(|| format!("cannot run {}", command.as_std().get_program().display()))?;
    let mut running = Running { child, stop_signal: store.stop_signal() };
    let ready = tokio::select! {
        ready = until_ready(store) => ready,
        status = running.child.wait() => {
            bail!("{} ended while starting ({}). {}", store.name(), describe(status), last_words(store));
        }
    };
    ready.map(|()| running)
}

/// However long it takes: a large log to replay is no reason to give up while the process lives.
async fn until_ready<S: Store>(store: &S) -> Result<()> {
    let started = Instant::now();
    let mut notice = config::STORE_STARTING_NOTICE;
    loop {
        // A question without an answer is asked again.
        if let Ok(answer) = timeout(config::STORE_PROBE_TIMEOUT, store.is_ready()).await
            && answer?
        {
            return Ok(());
        }
        if started.elapsed() >= notice {
            warn!(
                store.name = store.name(),
                "{} is still starting after {} s. {}",
                store.name(),
                started.elapsed().as_secs(),
                last_words(store)
            );
            notice += config::STORE_STARTING_NOTICE;
        }
        sleep(config::STORE_POLL).await;
    }
}

async fn stop_running<S: Store>(store: &S, mut running: Running, patience: Patience) -> Result<()> {
    takeover::clear(store, running.pid(), patience).await?;
    let status = running.child.wait().await.with_context(|| format!("cannot wait for {}", store.name()))?;
    if !status.success() {
        bail!("{} did not stop cleanly ({status}). {}", store.name(), last_words(store));
    }
    Ok(())
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|e| e.to_string(), |status| status.to_string())
}

fn last_words<S: Store>(store: &S) -> String {
    format!("Last lines of {}: {}", store.log().path().display(), store.log().tail())
}
