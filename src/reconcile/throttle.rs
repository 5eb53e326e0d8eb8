//! Throttles the reconciler: sleeps `RECONCILE_SLEEP_PER_WORK` ms for each ms of work, and `RECEIPT_SLEEP_PER_WORK` ms
//! for a receipt, so that live claims do not slow down.

use std::time::Duration;

use tokio::time::Instant;

use crate::config;

pub struct Throttle {
    per_work: u32,
    /// The end of the last sleep.
    woken: Instant,
}

impl Throttle {
    /// Sleeps `per_work` ms for each ms of work.
    pub fn new(per_work: u32) -> Self {
        Self { per_work, woken: Instant::now() }
    }

    /// Sleeps in proportion to the work since the last call.
    pub async fn wait(&mut self) {
        tokio::time::sleep(sleep_after(self.woken.elapsed(), self.per_work)).await;
        self.woken = Instant::now();
    }
}

fn sleep_after(work: Duration, per_work: u32) -> Duration {
    (work * per_work).clamp(config::RECONCILE_SLEEP_MIN, config::RECONCILE_SLEEP_MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::sleep_after;
    use crate::config;

    #[test]
    fn a_sleep_is_a_multiple_of_the_work_within_bounds() {
        let work = Duration::from_millis(5);
        assert_eq!(sleep_after(work, 3), 3 * work);
        assert_eq!(sleep_after(Duration::ZERO, 3), config::RECONCILE_SLEEP_MIN);
        assert_eq!(sleep_after(Duration::from_mins(1), 3), config::RECONCILE_SLEEP_MAX);
    }
}
