//! What the fence lends out while it is up, and Redis's clock as this process knows it: deadlines of claims go
//! by it, not by this machine's.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use super::counter;
use crate::redis::Redis;
use crate::redis::scripts::ready_marker;

/// An agreement in force, and the connection on which it was seen.
pub struct Session {
    /// Numbers the sessions of this process, from 1.
    pub id: u64,
    pub epoch: String,
    /// `ready:<epoch>`
    pub ready: Arc<str>,
    pub redis: Redis,
    pub clock: RedisClock,
}

impl Session {
    pub(super) fn new(epoch: String, redis: Redis, clock: RedisClock) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        Self { id, ready: ready_marker(&epoch), epoch, redis, clock }
    }

    /// The part of the epoch that grows.
    #[must_use]
    pub fn number(&self) -> u64 {
        counter(&self.epoch)
    }
}

/// Redis's clock as learned from its last reply, carried on by the monotonic clock: a wall clock that
/// is seconds off would refuse every claim.
pub struct RedisClock {
    /// Redis's ms since 1970 minus our monotonic ms.
    offset_ms: AtomicI64,
}

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

impl RedisClock {
    pub(super) fn learned(now_ms: i64, at: Instant) -> Self {
        let clock = Self { offset_ms: AtomicI64::new(0) };
        clock.learn(now_ms, at);
        clock
    }

    /// Takes over a time that a reply carried, which arrived at `at`.
    pub fn learn(&self, now_ms: i64, at: Instant) {
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
