//! Operations per second.

use std::ops::AddAssign;
use std::time::Duration;

/// Completed operations, and the time that they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    pub operations: u64,
    pub elapsed: Duration,
}

impl Rate {
    #[must_use]
    pub fn per_second(self) -> f64 {
        to_f64(self.operations) / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

/// A count as a number to divide.
#[expect(clippy::cast_precision_loss, reason = "no count here exceeds 2^53")]
#[must_use]
pub fn to_f64(count: u64) -> f64 {
    count as f64
}

impl AddAssign for Rate {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.elapsed += other.elapsed;
    }
}
