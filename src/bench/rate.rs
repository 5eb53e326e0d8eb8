//! How much was done in how long.

use std::ops::AddAssign;
use std::time::Duration;

/// Operations that were completed within a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    pub operations: u64,
    pub elapsed: Duration,
}

impl Rate {
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate has no fifteen digits")]
    pub fn per_second(self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

impl AddAssign for Rate {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.elapsed += other.elapsed;
    }
}
