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
use crate::tasks::Tasks;
use crate::{config, disk};

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
    /// What to do about an end that these lines of its log tell of.
    fn advice(&self, _said: &[String]) -> Option<String> {
        None
    }
    /// With less on its disk, a start is in vain.
    fn least_room_bytes(&self) -> u64 {
        0
    }
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
    task: JoinHandle<Option<Result<()>>>,
}

impl Supervised {
    /// Returns once the store answers; `None` when told to stop before. Then, and after an error, no process of
    /// the store is left.
    pub async fn start<S: Store>(store: S, stop: &CancellationToken, tasks: &Tasks) -> Result<Option<Self>> {
        let started = stop.run_until_cancelled(bring_up(&store)).await;
        let Some(Ok(running)) = started else {
            let by = Instant::now() + config::STORES_STOP_TIMEOUT;
            let cleared = takeover::clear(&store, None, Patience::until(by)).await;
            return match started {
                Some(Err(error)) => Err(error),
                _ => cleared.map(|_| None),
            };
        };
        let (stop, deadline) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let name = format!("supervisor of {}", store.name());
        let (store, mut running) = (Arc::new(store), Some(running));
        let (stopped, by) = (stop.clone(), deadline.clone());
        // A supervisor that is started again has no child: the one before has told it to stop, and it is made anew.
        let make = move || keep_running(store.clone(), running.take(), stopped.clone(), by.clone());
        let task = tokio::spawn(tasks.keep(&name, Some(config::TASK_MAX_IDLE), &stop, make));
        Ok(Some(Self { stop, deadline, task }))
    }

    pub async fn stop_by(mut self, deadline: Instant) -> Result<()> {
        self.deadline.get_or_init(|| deadline);
        self.stop.cancel();
        let outcome = (&mut self.task).await.context("the task that supervises a store failed")?;
        outcome.context("the task that supervises a store panicked")?
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.stop.cancel();
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
    store: Arc<S>,
    mut running: Option<Running>,
    stop: CancellationToken,
    deadline: Arc<OnceLock<Instant>>,
) -> Result<()> {
    let store = &*store;
    let patience = || {
        let default = Instant::now() + config::STORES_STOP_TIMEOUT;
        Patience::until(deadline.get().copied().unwrap_or(default))
    };
    let mut delays = restart_delays();
    loop {
        let mut child = match running.take() {
            Some(child) => child,
            None => match stop.run_until_cancelled(restart(store, &mut delays)).await {
                Some(child) => child,
                None => return takeover::clear(store, None, patience()).await.map(drop),
            },
        };
        let started = Instant::now();
        let Some(status) = stop.run_until_cancelled(watch(store, &mut child)).await else {
            return stop_running(store, child, patience()).await;
        };
        drop(child);
        let name = store.name();
        if matches!(&status, Ok(status) if status.success()) {
            info!(store.name = name, "{name} was told to stop and is started again");
        } else {
            let why = why(store);
            error!(store.name = name, "{name} died ({}) and is started again: {why}", describe(status));
        }
        if started.elapsed() >= config::STORE_RESTART_RESET_AFTER {
            delays = restart_delays();
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
    let name = store.name();
    let mut told: Option<(String, Instant)> = None;
    loop {
        sleep(delays.next().unwrap_or(config::STORE_RESTART_MAX)).await;
        until_room(store).await;
        let why = match bring_up(store).await {
            Ok(running) => {
                info!(store.name = name, "{name} is back");
                return running;
            }
            Err(e) => format!("{e:#}"),
        };
        // Each attempt fails in the same way until a person helps.
        let is_new = told.as_ref().is_none_or(|(last, at)| {
            causes(last) != causes(&why) || at.elapsed() >= config::STORE_FAILING_NOTICE_INTERVAL
        });
        if is_new {
            error!(store.name = name, "{why}");
            told = Some((why, Instant::now()));
        }
    }
}

/// A failure's text without the lines of the log, which name the time.
fn causes(why: &str) -> &str {
    why.split(LAST_LINES).next().unwrap_or_default()
}

async fn until_room<S: Store>(store: &S) {
    let folder = &store.folder().path;
    let is_short = || disk::room(folder).is_some_and(|room| room.free_bytes < store.least_room_bytes());
    if !is_short() {
        return;
    }
    let (name, shortage) = (store.name(), disk::shortage(folder).unwrap_or_default());
    error!(store.name = name, "{shortage}: {name} is started again as soon as there is room");
    while is_short() {
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
            bail!("{} ended while starting ({}): {}", store.name(), describe(status), why(store));
        }
    };
    ready.map(|()| running)
}

/// However long it takes: a large log to replay is no reason to give up while the process lives.
async fn until_ready<S: Store>(store: &S) -> Result<()> {
    let started = Instant::now();
    let mut notice = config::STORE_STARTING_NOTICE_INTERVAL;
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
                "{} is still starting after {} s: {}",
                store.name(),
                started.elapsed().as_secs(),
                why(store)
            );
            notice += config::STORE_STARTING_NOTICE_INTERVAL;
        }
        sleep(config::STORE_POLL).await;
    }
}

async fn stop_running<S: Store>(store: &S, mut running: Running, patience: Patience) -> Result<()> {
    takeover::clear(store, running.pid(), patience).await?;
    let status = running.child.wait().await.with_context(|| format!("cannot wait for {}", store.name()))?;
    if !status.success() {
        bail!("{} did not stop cleanly ({status}): {}", store.name(), why(store));
    }
    Ok(())
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|e| e.to_string(), |status| status.to_string())
}

const LAST_LINES: &str = "last lines of ";

/// Why a store ended or does not start, what helps first; then the last that this run of it has logged.
fn why<S: Store>(store: &S) -> String {
    let path = store.log().path().display();
    let said = store.log().tail();
    let lines = said.as_deref().unwrap_or_default();
    let mut parts = Vec::new();
    parts.extend(store.advice(lines).map(|advice| format!("{advice}; ")));
    let shortage = disk::shortage_behind(&lines.concat(), &store.folder().path);
    parts.extend(shortage.map(|shortage| format!("{shortage}; ")));
    parts.push(match &said {
        Err(e) => format!("{LAST_LINES}{path} cannot be read: {e}"),
        Ok(lines) if lines.is_empty() => format!("it wrote nothing to {path}"),
        Ok(lines) => {
            let last = lines.len().saturating_sub(config::STORE_LOG_TAIL_LINES);
            format!("{LAST_LINES}{path}: {}", lines[last..].join(" | "))
        }
    });
    parts.concat()
}
