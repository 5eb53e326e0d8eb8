//! When a task was last polled: the times at which each poll begins and ends. A poll is one step of the task between
//! two waits.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A new value counts as a task that was just polled.
pub struct Activity {
    /// In ms since `START`.
    last_change_ms: AtomicU64,
    is_in_step: AtomicBool,
}

impl Default for Activity {
    fn default() -> Self {
        Self { last_change_ms: now_ms().into(), is_in_step: false.into() }
    }
}

impl Activity {
    /// Runs the work and records each of its steps.
    pub async fn track<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|context| {
            let _step = Step::begin(self);
            work.as_mut().poll(context)
        })
        .await
    }

    /// How long the current step has lasted; `None` between two steps.
    pub fn step_time(&self) -> Option<Duration> {
        self.is_in_step.load(Ordering::Acquire).then(|| self.idle_time())
    }

    /// The time since a step last began or ended.
    pub fn idle_time(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.last_change_ms.load(Ordering::Acquire)))
    }

    fn record(&self, is_in_step: bool) {
        self.last_change_ms.store(now_ms(), Ordering::Release);
        self.is_in_step.store(is_in_step, Ordering::Release);
    }
}

/// Ends the step when it is dropped, also by a panic.
struct Step<'a>(&'a Activity);

impl<'a> Step<'a> {
    fn begin(activity: &'a Activity) -> Self {
        activity.record(true);
        Self(activity)
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.0.record(false);
    }
}

fn now_ms() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}
