//! The session that the fence lends out while it is up, and the estimate of Redis's clock: deadlines of claims are in
//! Redis's time, not in the time of this machine.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use time::OffsetDateTime;

use super::carriers::Carriers;
use crate::domain::Epoch;
use crate::postgres::fence::FenceRow;
use crate::redis::Redis;
use crate::redis::marker::ready_marker;

/// An agreement that holds, and the connection on which it was probed.
pub struct Session {
    /// Numbers the sessions of this process, from 1.
    pub id: u64,
    pub epoch: Epoch,
    /// `ready:<epoch>`
    pub ready: Arc<str>,
    pub redis: Redis,
    pub clock: RedisClock,
    /// Further connections to the same server.
    pub carriers: Carriers,
    /// When the epoch began, by Postgres's clock.
    pub began: Option<OffsetDateTime>,
}

impl Session {
    pub(super) fn new(row: FenceRow, redis: Redis, clock: RedisClock, carriers: Carriers) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let FenceRow { epoch, rebuilt_at: began, .. } = row;
        let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        Self { id, ready: ready_marker(&epoch), epoch, redis, clock, carriers, began }
    }

    /// The number in the epoch.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.epoch.counter()
    }
}

/// An estimate of Redis's clock: the time in its last reply, advanced by the monotonic clock. With this machine's wall
/// clock, a clock that is wrong by seconds would refuse every claim.
pub struct RedisClock {
    /// Redis's ms since 1970 minus this process's monotonic ms.
    offset_ms: AtomicI64,
}

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

impl RedisClock {
    pub(super) fn new(now_ms: i64, at: Instant) -> Self {
        let clock = Self { offset_ms: AtomicI64::new(0) };
        clock.set(now_ms, at);
        clock
    }

    /// Sets the clock by the time in a reply that arrived at `at`.
    pub fn set(&self, now_ms: i64, at: Instant) {
        self.offset_ms.store(now_ms - monotonic_ms(at), Ordering::Relaxed);
    }

    /// Redis's time at the given moment, ms since 1970.
    pub fn at_ms(&self, at: Instant) -> i64 {
        monotonic_ms(at) + self.offset_ms.load(Ordering::Relaxed)
    }
}

fn monotonic_ms(at: Instant) -> i64 {
    i64::try_from(at.saturating_duration_since(*STARTED).as_millis()).unwrap_or(i64::MAX)
}
