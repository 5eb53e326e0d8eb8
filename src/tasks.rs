//! Watches the tasks that live as long as the program. One that ends before its time is started again, or ends the
//! program where its state does not allow that; `/livez` names one that is not there or is stuck. What the tasks do,
//! and in which order they stop, is not decided here. A request's own tasks are short, and none of these.

mod pulse;

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
use pulse::Pulse;

/// A cheap handle; clones share one list.
#[derive(Clone, Default)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    watched: Mutex<Vec<Arc<Watched>>>,
    /// Why the program has to end.
    failure: Mutex<Option<Failure>>,
    /// Cancelled when it has to end.
    failed: CancellationToken,
}

struct Watched {
    name: String,
    pulse: Pulse,
    /// It looks around at least this often; `None` where it may wait for ever.
    wakes_within: Option<Duration>,
    /// Why it does not run now.
    ended: Mutex<Option<String>>,
}

/// A task without which the program cannot go on has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task `{task}` has ended before its time: {why}")]
pub struct Failure {
    pub task: String,
    pub why: String,
}

/// A task that does not do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub task: String,
    pub what: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the task `{}` {}", self.task, self.what)
    }
}

impl Tasks {
    /// A task that is made again whenever it ends before `stop`; what it answers once it is told to stop, `None`
    /// where a panic ended it then.
    pub fn keep<F, M>(
        &self,
        name: &str,
        wakes_within: Option<Duration>,
        stop: &CancellationToken,
        mut make: M,
    ) -> impl Future<Output = Option<F::Output>> + Send + use<F, M>
    where
        F: Future<Output: Send> + Send,
        M: FnMut() -> F + Send,
    {
        let place = Place::take(self, name, wakes_within, stop);
        async move {
            let mut delays = restart_delays();
            loop {
                let started = Instant::now();
                let end = place.watched.run(async { make().await }).await;
                if place.stop.is_cancelled() {
                    return end.ok();
                }
                let why = end.err().unwrap_or_else(|| "it returned".into());
                let name = &place.watched.name;
                tracing::error!(
                    task.name = name,
                    "the task `{name}` has ended before its time: {why}. It is started again"
                );
                place.watched.note_end(Some(why));
                if started.elapsed() >= config::TASK_RESTART_RESET_AFTER {
                    delays = restart_delays();
                }
                let pause = tokio::time::sleep(delays.next().unwrap_or(config::TASK_RESTART_MAX));
                place.stop.run_until_cancelled(pause).await?;
                place.watched.note_end(None);
            }
        }
    }

    /// A task that cannot be made again: the program ends when it ends before `stop`. What it answers.
    pub fn need<F>(
        &self,
        name: &str,
        stop: &CancellationToken,
        work: F,
    ) -> impl Future<Output = Option<F::Output>> + Send + use<F>
    where
        F: Future<Output: Send> + Send,
    {
        let place = Place::take(self, name, None, stop);
        async move {
            let end = place.watched.run(work).await;
            if !place.stop.is_cancelled() {
                place.fail(end.as_ref().err().map_or("it returned", String::as_str));
            }
            end.ok()
        }
    }

    /// The first task that has ended or is stuck.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        if let Err(Failure { task, why }) = self.verdict() {
            return Some(Trouble { task, what: format!("has ended: {why}; the program stops") });
        }
        let watched = lock(&self.shared.watched);
        watched
            .iter()
            .find_map(|watched| watched.trouble().map(|what| Trouble { task: watched.name.clone(), what }))
    }

    /// Cancelled when a task that cannot be started again has ended before its time: the program has to stop.
    #[must_use]
    pub fn failed(&self) -> &CancellationToken {
        &self.shared.failed
    }

    /// # Errors
    /// When a task that the program needs has ended before its time.
    pub fn verdict(&self) -> Result<(), Failure> {
        lock(&self.shared.failure).clone().map_or(Ok(()), Err)
    }
}

impl Watched {
    /// The task's end: its answer, or the panic in words.
    async fn run<F: Future>(&self, work: F) -> Result<F::Output, String> {
        // What a panic leaves behind is dropped, or guarded by locks that take poison for what it is.
        let end = AssertUnwindSafe(self.pulse.of(work)).catch_unwind().await;
        end.map_err(|panic| format!("it panicked ({})", panic_words(&*panic)))
    }

    fn note_end(&self, why: Option<String>) {
        *lock(&self.ended) = why;
    }

    fn trouble(&self) -> Option<String> {
        if let Some(why) = &*lock(&self.ended) {
            return Some(format!("has ended and is about to be started again: {why}"));
        }
        let seconds = |time: Duration| time.as_secs();
        if let Some(time) = self.pulse.in_one_step().filter(|time| *time > config::TASK_MAX_STEP) {
            return Some(format!("is stuck: it has kept its thread for {} s", seconds(time)));
        }
        let time =
            self.wakes_within.and_then(|within| Some(self.pulse.quiet()).filter(|time| *time > within));
        time.map(|time| format!("is stuck: it has not moved for {} s", seconds(time)))
    }
}

/// A task's place in the list, for as long as it lives.
struct Place {
    tasks: Tasks,
    watched: Arc<Watched>,
    stop: CancellationToken,
}

impl Place {
    fn take(tasks: &Tasks, name: &str, wakes_within: Option<Duration>, stop: &CancellationToken) -> Self {
        let watched = Arc::new(Watched {
            name: name.to_owned(),
            pulse: Pulse::default(),
            wakes_within,
            ended: Mutex::default(),
        });
        lock(&tasks.shared.watched).push(watched.clone());
        Self { tasks: tasks.clone(), watched, stop: stop.clone() }
    }

    /// Ends the program; the first failure is the one that is told.
    fn fail(&self, why: &str) {
        let failure = Failure { task: self.watched.name.clone(), why: why.to_owned() };
        lock(&self.tasks.shared.failure).get_or_insert(failure);
        self.tasks.shared.failed.cancel();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.tasks.shared.watched).retain(|watched| !Arc::ptr_eq(watched, &self.watched));
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

fn panic_words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
