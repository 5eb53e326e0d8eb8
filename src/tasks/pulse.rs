//! When a task was last seen at work: the beginning and the end of each step between two of its waits.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

pub struct Pulse {
    /// Since `START`.
    seen_ms: AtomicU64,
    is_in_step: AtomicBool,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { seen_ms: now_ms().into(), is_in_step: false.into() }
    }
}

impl Pulse {
    /// The same work, seen at each of its steps.
    pub async fn of<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|context| {
            let _step = Step::begin(self);
            work.as_mut().poll(context)
        })
        .await
    }

    /// How long the step lasts that is under way.
    pub fn in_one_step(&self) -> Option<Duration> {
        self.is_in_step.load(Ordering::Acquire).then(|| self.quiet())
    }

    /// How long ago it was last seen.
    pub fn quiet(&self) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(self.seen_ms.load(Ordering::Acquire)))
    }

    fn see(&self, is_in_step: bool) {
        self.seen_ms.store(now_ms(), Ordering::Release);
        self.is_in_step.store(is_in_step, Ordering::Release);
    }
}

/// Ends with the step, also by a panic.
struct Step<'a>(&'a Pulse);

impl<'a> Step<'a> {
    fn begin(pulse: &'a Pulse) -> Self {
        pulse.see(true);
        Self(pulse)
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.0.see(false);
    }
}

fn now_ms() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}
