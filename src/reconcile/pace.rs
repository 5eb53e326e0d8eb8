//! A comparison is in nobody's way: it rests for most of the time, and the longer the more there is to do beside it.

use std::time::Duration;

use tokio::time::Instant;

use crate::config;

/// Since when it has worked without a rest.
pub struct Pace(Instant);

impl Default for Pace {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Pace {
    /// Rests in proportion to the work since the last rest.
    pub async fn rest(&mut self) {
        tokio::time::sleep(rest_after(self.0.elapsed())).await;
        self.0 = Instant::now();
    }
}

fn rest_after(work: Duration) -> Duration {
    (work * config::RECONCILE_SLEEP_PER_WORK).clamp(config::RECONCILE_SLEEP_MIN, config::RECONCILE_SLEEP_MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::rest_after;
    use crate::config;

    #[test]
    fn a_rest_is_a_multiple_of_the_work_within_bounds() {
        let work = Duration::from_millis(5);
        assert_eq!(rest_after(work), config::RECONCILE_SLEEP_PER_WORK * work);
        assert_eq!(rest_after(Duration::ZERO), config::RECONCILE_SLEEP_MIN);
        assert_eq!(rest_after(Duration::from_mins(1)), config::RECONCILE_SLEEP_MAX);
    }
}
