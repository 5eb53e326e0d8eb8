//! The fence: claims are accepted only while Redis is known to agree with Postgres. This file holds the fence's state
//! and its task. `come_up` takes the fence up, `invalidation` lets other parts take it down, `probe` compares both
//! stores, `rebuild` restores the agreement. The parts that depend on the agreement (publishing, releasing, claims) are
//! not here: they subscribe to the fence.
//!
//! While the fence is up, it lends out a session: the epoch, and the connection on which Redis was probed. A connection
//! that breaks ends the session; a new connection is probed before it is used.

mod come_up;
mod durability;
mod error;
mod invalidation;
pub mod postgres_loss;
mod postgres_outage;
pub mod probe;
pub mod promotion;
pub mod rebuild;
mod retry;
mod server_check;
mod session;
pub mod store_status;
pub mod wal_position;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::domain::{Origin, Partition};
use crate::logs::info_or_warn;
use crate::postgres::fence::FenceRow;
use crate::postgres::{self, Postgres, PostgresError};
use crate::redis::probe::RedisProbe;
use crate::redis::{Redis, RedisError, RedisServer};
use durability::DurabilityWatch;
pub use error::StoreError;
pub use invalidation::Evidence;
use postgres_outage::OutageWatch;
pub use postgres_outage::PostgresOutage;
use promotion::TermsWatch;
use rebuild::Report;
use retry::Pauses;
use server_check::ServerCheck;
pub use session::{RedisClock, Session};

/// Why the fence is down after a script found another marker than the session's.
pub const MARKER_CHANGED: &str = "the epoch marker in Redis has changed";

/// A cheap handle; clones share one fence.
#[derive(Clone)]
pub struct Fence {
    shared: Arc<Shared>,
}

struct Shared {
    partition: Partition,
    state: watch::Sender<FenceState>,
    /// Wakes the task for a probe before the next second.
    doubted: Notify,
    /// Proof that an epoch no longer holds. A rebuild removes it.
    evidence: Mutex<Option<Evidence>>,
    /// The rebuild that an operator has ordered.
    ordered: Mutex<Option<OrderedRebuild>>,
    /// Ends the pause before the next attempt: an ordered rebuild, or new evidence while the fence is down.
    wanted: Notify,
    /// Why claims wait for an operator; the first reason is kept.
    waits: Mutex<Option<Arc<str>>>,
    /// The fence row that was read last, for probes while Postgres does not answer.
    row: Mutex<Option<FenceRow>>,
    /// Unrecorded order events at the last probe.
    backlog: AtomicU64,
    /// Why Redis refuses claims although it agrees with Postgres; `None` if it takes claims.
    refusal: Mutex<Option<Arc<str>>>,
    outage: OutageWatch,
    server_check: ServerCheck,
    /// Notified when entries were removed from the order stream or skipped by the group, and no comparison has searched
    /// for their events yet.
    misses_entries: Notify,
}

/// A rebuild that an operator has ordered; the operator waits for the report.
struct OrderedRebuild {
    origin: Origin,
    answer: oneshot::Sender<Result<Report, String>>,
}

#[derive(Clone)]
pub enum FenceState {
    Up(Arc<Session>),
    Down { reason: Arc<str> },
}

impl Fence {
    #[must_use]
    pub fn new(partition: Partition) -> Self {
        let state = FenceState::Down { reason: "starting".into() };
        Self {
            shared: Arc::new(Shared {
                partition,
                state: watch::Sender::new(state),
                doubted: Notify::new(),
                evidence: Mutex::default(),
                ordered: Mutex::default(),
                wanted: Notify::new(),
                waits: Mutex::default(),
                row: Mutex::default(),
                backlog: AtomicU64::new(0),
                refusal: Mutex::default(),
                outage: OutageWatch::default(),
                server_check: ServerCheck::default(),
                misses_entries: Notify::new(),
            }),
        }
    }

    #[must_use]
    pub fn partition(&self) -> Partition {
        self.shared.partition
    }

    /// The session, or why there is none.
    pub fn session(&self) -> Result<Arc<Session>, Arc<str>> {
        match &*self.shared.state.borrow() {
            FenceState::Up(session) => Ok(session.clone()),
            FenceState::Down { reason } => Err(reason.clone()),
        }
    }

    /// Whether this session still stands.
    #[must_use]
    pub fn is_current(&self, session: &Session) -> bool {
        matches!(&*self.shared.state.borrow(), FenceState::Up(current) if current.id == session.id)
    }

    /// The session, for work that needs one.
    ///
    /// # Errors
    /// With the reason why the fence is down.
    pub fn require_session(&self) -> Result<Arc<Session>, StoreError> {
        self.session().map_err(StoreError::NotReady)
    }

    /// The session, or why claims are not accepted: the fence is down, or Redis refused to write at the last probe.
    pub fn taking_claims(&self) -> Result<Arc<Session>, Arc<str>> {
        let session = self.session()?;
        lock(&self.shared.refusal).clone().map_or(Ok(session), Err)
    }

    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<FenceState> {
        self.shared.state.subscribe()
    }

    /// Unrecorded order events at the last probe, at most a second old while the fence is up.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        self.shared.backlog.load(Ordering::Relaxed)
    }

    /// Waits until a probe misses entries; the fence probes once a second.
    pub async fn misses_entries(&self) {
        self.shared.misses_entries.notified().await;
    }

    /// Since when Postgres does not answer; `None` if it answered the last probe.
    #[must_use]
    pub fn postgres_outage(&self) -> Option<PostgresOutage> {
        self.shared.outage.get()
    }

    /// Takes the fence down, rebuilds (also if Postgres has lost commits), and returns the report. Only an operator may
    /// order this, and the audit log records the order.
    ///
    /// # Errors
    /// The reason why the rebuild was not finished. The fence tries again by itself.
    pub async fn order_rebuild(&self, origin: Origin) -> Result<Report, String> {
        let (answer, answered) = oneshot::channel();
        *lock(&self.shared.ordered) = Some(OrderedRebuild { origin, answer });
        if let Ok(session) = self.session() {
            self.take_down(&session.epoch, "a rebuild was ordered");
        }
        self.shared.wanted.notify_one();
        let report =
            answered.await.unwrap_or_else(|_| Err("another rebuild was ordered after this one".into()))?;
        // The operator's next request expects that claims are accepted again; if they are not, it says why.
        let mut states = self.subscribe();
        let up = states.wait_for(|state| matches!(state, FenceState::Up(_)));
        drop(tokio::time::timeout(config::FENCE_RETRY_MAX, up).await);
        Ok(report)
    }

    /// The fence's task: comes up, probes once a second, comes down, and starts over, until `stop`.
    pub async fn run(self, server: RedisServer, postgres: Postgres, stop: CancellationToken) {
        let _down = TakeDownOnDrop(&self);
        let work = async {
            let mut pauses = Pauses::default();
            loop {
                let pause = match self.come_up(&server, &postgres, pauses.has_failed()).await {
                    Ok(session) => {
                        let since = Instant::now();
                        self.watch_over(&session, &postgres).await;
                        pauses.after_session(since.elapsed())
                    }
                    Err(down) => {
                        self.stay_down(down.reason(), false);
                        pauses.after(&down)
                    }
                };
                // An error means that the pause is over.
                drop(tokio::time::timeout(pause, self.shared.wanted.notified()).await);
            }
        };
        // Dropping the work half-way is like a crash: the Postgres session ends, and the next rebuild starts over.
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }

    /// Probes both stores once a second and returns when the session has ended.
    async fn watch_over(&self, session: &Arc<Session>, postgres: &Postgres) {
        let mut ticks = tokio::time::interval(config::PROBE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut durability, mut terms) = (DurabilityWatch::default(), TermsWatch::default());
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.shared.doubted.notified() => {}
            }
            // The connection has broken: a probe on it would only wait for its timeout.
            if self.session().is_err() {
                return;
            }
            let verdict = match self.probe(&session.redis, postgres).await {
                Ok((seen, row)) => {
                    self.record_probe(&seen);
                    match probe::compare(&seen, &row) {
                        // Another process has rebuilt since: every script would refuse this session's marker.
                        Ok(()) if row.epoch != session.epoch => Err(MARKER_CHANGED.to_owned()),
                        Ok(()) => {
                            terms.check(&row, postgres);
                            Ok(())
                        }
                        verdict => verdict.map_err(|difference| difference.sentence),
                    }
                }
                Err(error) => match error.downcast_ref() {
                    // The session stays: each script still looks at the marker and the sums.
                    Some(moving @ RedisError::Busy(_)) if moving.is_about_moving_slot() => {
                        self.redis_failed(&session.epoch, moving);
                        Ok(())
                    }
                    _ => Err(error.to_string()),
                },
            };
            if let Err(difference) = verdict {
                self.take_down(&session.epoch, &difference);
            }
            if self.session().is_err() {
                return;
            }
            durability.check(&session.redis).await;
        }
    }

    fn record_probe(&self, seen: &RedisProbe) {
        self.shared.backlog.store(seen.backlog, Ordering::Relaxed);
        *lock(&self.shared.refusal) = seen.refusal.as_deref().map(Into::into);
        if seen.tally.misses_entries() {
            self.shared.misses_entries.notify_one();
        }
    }

    /// Reads Redis, and the fence row from Postgres; without Postgres, the row that was read last.
    async fn probe(&self, redis: &Redis, postgres: &Postgres) -> anyhow::Result<(RedisProbe, FenceRow)> {
        // Redis first: a WAL position in Redis is then never ahead of the position that Postgres returns, unless
        // Postgres has lost commits.
        let seen = crate::redis::probe::probe(redis).await?;
        let row = self.read_row(postgres).await;
        let known = match &row {
            Ok(row) => postgres_loss::is_older_than_redis(&seen, row).then(|| row.this_postgres.clone()),
            Err(_) => lock(&self.shared.row).as_ref().map(|row| row.this_postgres.clone()),
        };
        if let Some(known) = known {
            self.shared.server_check.start(postgres, self.partition(), known);
        }
        self.shared.outage.record(row.as_ref().err());
        match row {
            Ok(row) => {
                let mut kept = row.clone();
                kept.lsn = None;
                *lock(&self.shared.row) = Some(kept);
                Ok((seen, row))
            }
            Err(error) => match lock(&self.shared.row).clone() {
                Some(row) => Ok((seen, row)),
                None => Err(error.into()),
            },
        }
    }

    async fn read_row(&self, postgres: &Postgres) -> Result<FenceRow, PostgresError> {
        let (pool, partition) = (postgres.pool.clone(), self.shared.partition);
        let read = async move { postgres::fence::read(&pool, partition).await };
        postgres::with_timeout(config::PROBE_INTERVAL, read).await
    }

    fn stay_down(&self, reason: &str, is_normal: bool) {
        let changed = self.shared.state.send_if_modified(|state| match state {
            FenceState::Down { reason: old } if **old == *reason => false,
            _ => {
                *state = FenceState::Down { reason: reason.into() };
                true
            }
        });
        if changed {
            info_or_warn!(is_normal, "fence down: {reason}");
        }
    }
}

/// Takes the fence down when the fence's task ends, also by a panic: claims are accepted only while the task probes.
struct TakeDownOnDrop<'a>(&'a Fence);

impl Drop for TakeDownOnDrop<'_> {
    fn drop(&mut self) {
        let reason = "the fence's task has ended".into();
        self.0.shared.state.send_replace(FenceState::Down { reason });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_not_accepted_after_the_probing_task_has_ended() {
        let fence = Fence::new(Partition::DEFAULT);
        let task = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _down = TakeDownOnDrop(&fence);
            panic!("the task panics");
        }));
        assert!(task.is_err());
        assert_eq!(fence.session().err().as_deref(), Some("the fence's task has ended"));
    }
}
