//! The partition: one set of Redis keys with one row of the fence. An epoch belongs to one partition.

use std::fmt;

use super::UserId;

/// The number of a partition, as in the hash tag of its keys and the column `fence.partition`. From 0 to `i16::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(i16);

impl Partition {
    /// The partition that every installation has.
    pub const DEFAULT: Self = Self(0);

    /// The numbers that new partitions take, in this order. A plain order would leave masters of a Redis Cluster without a
    /// partition: with 0 to 15, four of eight have none. Each number is the smallest unused one whose slot (CRC16 of its
    /// digits, modulo 16384) lies in the next of 64 equal ranges, and the ranges come in bit-reversed order.
    pub const NUMBERS: [i16; 64] = [
        0, 2, 3, 1, 48, 152, 153, 49, 71, 73, 72, 70, 113, 111, 112, 110, 172, 68, 69, 173, 10, 12, 11, 13,
        53, 51, 50, 52, 29, 133, 28, 132, 8, 123, 122, 9, 40, 42, 43, 41, 79, 163, 162, 78, 342, 119, 343,
        118, 62, 60, 61, 63, 18, 102, 19, 103, 143, 59, 58, 142, 21, 23, 20, 22,
    ];

    #[must_use]
    pub const fn new(number: i16) -> Self {
        Self(number)
    }

    #[must_use]
    pub const fn number(self) -> i16 {
        self.0
    }
}

/// The share at which a user claims, of those of a coupon in the order of their partitions: CRC16 of the user, modulo their
/// number. It never changes, so that one share alone knows what the user holds.
#[must_use]
pub fn home(shares: &[Partition], user: &UserId) -> Option<Partition> {
    let number = crc16::State::<crc16::XMODEM>::calculate(user.as_str().as_bytes());
    shares.get(usize::from(number) % shares.len().max(1)).copied()
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one agreement between Redis and Postgres in one partition. Its text is a counter and a random part, as in
/// `7-c0ffee12`: each rebuild has a higher counter, and the random part distinguishes two databases with equal counters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch {
    pub partition: Partition,
    text: String,
}

impl Epoch {
    #[must_use]
    pub const fn new(partition: Partition, text: String) -> Self {
        Self { partition, text }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The counter; 0 for a text without a readable one.
    #[must_use]
    pub fn counter(&self) -> u64 {
        counter(&self.text)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// The counter in the text of an epoch; 0 for a text without a readable one.
#[must_use]
pub fn counter(epoch: &str) -> u64 {
    epoch.split('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
