//! The tasks that run as long as the program. A task that ends unexpectedly is restarted, or ends the program if its
//! state does not allow a restart; `/livez` names a task that has ended or is stuck. `app` decides in which order the
//! tasks stop. Short tasks of a single request are not in the list.

mod activity;
pub mod batch_queue;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::metrics;
use activity::Activity;

/// A cheap handle; clones share one list.
#[derive(Clone, Default)]
pub struct Tasks {
    shared: Arc<Shared>,
    /// Ends the name of each task: whose it is.
    owner: Arc<str>,
}

#[derive(Default)]
struct Shared {
    tasks: Mutex<Vec<Arc<Task>>>,
    /// The first failure of a task that cannot be restarted: the program has to end.
    failure: Mutex<Option<Failure>>,
    /// Cancelled with the first failure.
    failed: CancellationToken,
}

struct Task {
    name: String,
    activity: Activity,
    /// The longest time between two polls of the task; `None` if it may wait for ever.
    max_idle: Option<Duration>,
    /// Why the task ended, while it waits for its restart.
    ended: Mutex<Option<String>>,
}

/// A task that the program needs has ended and cannot be restarted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task `{task}` has ended unexpectedly: {why}")]
pub struct Failure {
    pub task: String,
    pub why: String,
}

/// A task that has ended or is stuck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskProblem {
    pub task: String,
    /// What is wrong: the end of a sentence that begins with the task's name.
    pub what: String,
}

impl fmt::Display for TaskProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the task `{}` {}", self.task, self.what)
    }
}

impl Tasks {
    /// The same list, for tasks whose names end with `owner`.
    #[must_use]
    pub fn of(&self, owner: &str) -> Self {
        Self { shared: self.shared.clone(), owner: owner.into() }
    }

    /// Runs the task that `make` returns, and restarts it with a new one whenever it ends before `stop`. `max_idle` is
    /// the longest time between two polls; `None` if it may wait for ever. Returns the output of the task that ran at
    /// `stop`; `None` if that task panicked.
    pub fn supervise<F, M>(
        &self,
        name: &str,
        max_idle: Option<Duration>,
        stop: &CancellationToken,
        mut make: M,
    ) -> impl Future<Output = Option<F::Output>> + Send + use<F, M>
    where
        F: Future<Output: Send> + Send,
        M: FnMut() -> F + Send,
    {
        let entry = Entry::new(self, name, max_idle, stop);
        async move {
            let mut delays = restart_delays();
            loop {
                let started = Instant::now();
                let end = entry.task.run(async { make().await }).await;
                if entry.stop.is_cancelled() {
                    return end.ok();
                }
                let why = end.err().unwrap_or_else(|| "it returned".into());
                let name = &entry.task.name;
                tracing::error!(
                    task.name = name,
                    "the task `{name}` has ended unexpectedly: {why}. It is started again"
                );
                entry.task.set_ended(Some(why));
                metrics::TASK_RESTARTS.add(1);
                if started.elapsed() >= config::TASK_RESTART_RESET_AFTER {
                    delays = restart_delays();
                }
                let pause = tokio::time::sleep(delays.next().unwrap_or(config::TASK_RESTART_MAX));
                entry.stop.run_until_cancelled(pause).await?;
                entry.task.set_ended(None);
            }
        }
    }

    /// Runs a task that cannot be restarted: the program ends when it ends before `stop`. Returns the task's output;
    /// `None` if the task panicked.
    pub fn require<F>(
        &self,
        name: &str,
        stop: &CancellationToken,
        work: F,
    ) -> impl Future<Output = Option<F::Output>> + Send + use<F>
    where
        F: Future<Output: Send> + Send,
    {
        let entry = Entry::new(self, name, None, stop);
        async move {
            let end = entry.task.run(work).await;
            if !entry.stop.is_cancelled() {
                entry.fail(end.as_ref().err().map_or("it returned", String::as_str));
            }
            end.ok()
        }
    }

    /// The first task that has ended or is stuck.
    #[must_use]
    pub fn problem(&self) -> Option<TaskProblem> {
        if let Err(Failure { task, why }) = self.check() {
            return Some(TaskProblem { task, what: format!("has ended: {why}; the program stops") });
        }
        let tasks = lock(&self.shared.tasks);
        tasks.iter().find_map(|task| task.problem().map(|what| TaskProblem { task: task.name.clone(), what }))
    }

    /// Cancelled when a task that cannot be restarted has ended unexpectedly: the program has to stop.
    #[must_use]
    pub fn failed(&self) -> &CancellationToken {
        &self.shared.failed
    }

    /// Whether the program may continue.
    ///
    /// # Errors
    /// When a task that cannot be restarted has ended unexpectedly.
    pub fn check(&self) -> Result<(), Failure> {
        lock(&self.shared.failure).clone().map_or(Ok(()), Err)
    }
}

impl Task {
    /// The output, or the text of the panic.
    async fn run<F: Future>(&self, work: F) -> Result<F::Output, String> {
        // Unwind safe: the task's own state is dropped, and shared state is behind mutexes that ignore poison.
        let end = AssertUnwindSafe(self.activity.track(work)).catch_unwind().await;
        end.map_err(|panic| format!("it panicked ({})", panic_text(&*panic)))
    }

    fn set_ended(&self, why: Option<String>) {
        *lock(&self.ended) = why;
    }

    fn problem(&self) -> Option<String> {
        if let Some(why) = &*lock(&self.ended) {
            return Some(format!("has ended and is about to be started again: {why}"));
        }
        if let Some(time) = self.activity.step_time().filter(|time| *time > config::TASK_MAX_STEP) {
            return Some(format!("is stuck: it has blocked its thread for {} s", time.as_secs()));
        }
        let idle = self.activity.idle_time();
        let is_stuck = self.max_idle.is_some_and(|max_idle| idle > max_idle);
        is_stuck.then(|| format!("is stuck: it was not polled for {} s", idle.as_secs()))
    }
}

/// A task's entry in the list; dropping it removes the task.
struct Entry {
    tasks: Tasks,
    task: Arc<Task>,
    stop: CancellationToken,
}

impl Entry {
    fn new(tasks: &Tasks, name: &str, max_idle: Option<Duration>, stop: &CancellationToken) -> Self {
        let task = Arc::new(Task {
            name: format!("{name}{}", tasks.owner),
            activity: Activity::default(),
            max_idle,
            ended: Mutex::default(),
        });
        lock(&tasks.shared.tasks).push(task.clone());
        Self { tasks: tasks.clone(), task, stop: stop.clone() }
    }

    /// Ends the program; only the first failure is kept.
    fn fail(&self, why: &str) {
        let failure = Failure { task: self.task.name.clone(), why: why.to_owned() };
        lock(&self.tasks.shared.failure).get_or_insert(failure);
        self.tasks.shared.failed.cancel();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.tasks.shared.tasks).retain(|task| !Arc::ptr_eq(task, &self.task));
        if !self.stop.is_cancelled() {
            self.fail("it was cancelled");
        }
    }
}

fn restart_delays() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(config::TASK_RESTART_MIN)
        .with_max_delay(config::TASK_RESTART_MAX)
        .without_max_times()
        .build()
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
