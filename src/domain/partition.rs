//! The partition: one set of Redis keys with one row of the fence. For now there is one partition.

use std::fmt;

/// The number of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Partition(i32);

impl Partition {
    /// The partition that every sale uses.
    pub const DEFAULT: Self = Self(0);

    /// The partition's number, as in the column `fence.partition`.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
