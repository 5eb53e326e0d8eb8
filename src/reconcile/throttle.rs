//! Throttles the reconciler: sleeps `RECONCILE_SLEEP_PER_WORK` ms for each ms of work, so that live claims do not slow
//! down.

use std::time::Duration;

use tokio::time::Instant;

use crate::config;

/// The time of the last sleep's end.
pub struct Throttle(Instant);

impl Default for Throttle {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Throttle {
    /// Sleeps in proportion to the work since the last call.
    pub async fn wait(&mut self) {
        tokio::time::sleep(sleep_after(self.0.elapsed())).await;
        self.0 = Instant::now();
    }
}

fn sleep_after(work: Duration) -> Duration {
    (work * config::RECONCILE_SLEEP_PER_WORK).clamp(config::RECONCILE_SLEEP_MIN, config::RECONCILE_SLEEP_MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::sleep_after;
    use crate::config;

    #[test]
    fn a_sleep_is_a_multiple_of_the_work_within_bounds() {
        let work = Duration::from_millis(5);
        assert_eq!(sleep_after(work), config::RECONCILE_SLEEP_PER_WORK * work);
        assert_eq!(sleep_after(Duration::ZERO), config::RECONCILE_SLEEP_MIN);
        assert_eq!(sleep_after(Duration::from_mins(1)), config::RECONCILE_SLEEP_MAX);
    }
}
