//! The fence: claims are accepted only while Redis is known to agree with Postgres. This file holds its
//! state and its one task; how it comes up is in `fence/come_up.rs`, what others tell it in `fence/report.rs`, what is
//! compared in `fence/look.rs`, how agreement is made again in `fence/rebuild.rs`, how definitions reach Redis in
//! `fence/publish.rs`.
//!
//! While the fence is up it lends out a session: the epoch, and the very connection on which that
//! server was looked at. A connection that breaks ends the session; a new one is looked at first.

mod come_up;
pub mod deleted;
mod durability;
mod error;
mod invalidation;
pub mod postgres_loss;
mod postgres_outage;
pub mod probe;
pub mod rebuild;
mod retry;
mod session;
pub mod store_status;
pub mod wal_position;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::logs::info_or_warn;
use crate::postgres::fence::FenceRow;
use crate::postgres::{self, Postgres, PostgresError};
use crate::redis::probe::RedisProbe;
use crate::redis::{Redis, RedisServer};
pub use error::StoreError;
pub use invalidation::Loss;
use postgres_outage::OutageWatch;
pub use postgres_outage::PostgresOutage;
use rebuild::Report;
use retry::Pauses;
pub use session::{RedisClock, Session};

/// Why the fence is down after a script met another marker than its own.
pub const MARKER_CHANGED: &str = "the epoch marker in Redis has changed";

/// A cheap handle; clones share one fence.
#[derive(Clone)]
pub struct Fence {
    shared: Arc<Shared>,
}

struct Shared {
    state: watch::Sender<FenceState>,
    /// Wakes the task when somebody doubts.
    doubted: Notify,
    /// Proof that this epoch no longer holds, until a rebuild has dealt with it.
    loss: Mutex<Option<Loss>>,
    /// A person who ordered a rebuild and waits for its report.
    ordered: Mutex<Option<oneshot::Sender<Result<Report, String>>>>,
    /// Ends the pause before the next attempt: an order, or new evidence while the fence is down.
    wanted: Notify,
    /// Why claims wait for a person, in the words that were found first.
    waits: Mutex<Option<Arc<str>>>,
    /// The row last read: it stands while Postgres is away.
    row: Mutex<Option<FenceRow>>,
    /// Unrecorded order events at the last look.
    backlog: AtomicU64,
    /// Why Redis takes no claims though it agrees; `None` where it does.
    refusal: Mutex<Option<Arc<str>>>,
    outage: OutageWatch,
    /// Entries left the order stream, or the group, in a way that no comparison has looked into.
    misses_entries: Notify,
}

#[derive(Clone)]
pub enum FenceState {
    Up(Arc<Session>),
    Down { reason: Arc<str> },
}

impl Fence {
    #[must_use]
    pub fn new() -> Self {
        let state = FenceState::Down { reason: "starting".into() };
        Self {
            shared: Arc::new(Shared {
                state: watch::Sender::new(state),
                doubted: Notify::new(),
                loss: Mutex::default(),
                ordered: Mutex::default(),
                wanted: Notify::new(),
                waits: Mutex::default(),
                row: Mutex::default(),
                backlog: AtomicU64::new(0),
                refusal: Mutex::default(),
                outage: OutageWatch::default(),
                misses_entries: Notify::new(),
            }),
        }
    }

    /// The session, or why there is none.
    pub fn session(&self) -> Result<Arc<Session>, Arc<str>> {
        match &*self.shared.state.borrow() {
            FenceState::Up(session) => Ok(session.clone()),
            FenceState::Down { reason } => Err(reason.clone()),
        }
    }

    /// The session, for work that needs one.
    ///
    /// # Errors
    /// With the reason why the fence is down.
    pub fn require_session(&self) -> Result<Arc<Session>, StoreError> {
        self.session().map_err(StoreError::NotReady)
    }

    /// The session, or why no claims are taken: there is none, or Redis refuses to write, at most a second ago.
    pub fn taking_claims(&self) -> Result<Arc<Session>, Arc<str>> {
        let session = self.session()?;
        lock(&self.shared.refusal).clone().map_or(Ok(session), Err)
    }

    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<FenceState> {
        self.shared.state.subscribe()
    }

    /// Unrecorded order events at the last look, at most a second old while the fence is up.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        self.shared.backlog.load(Ordering::Relaxed)
    }

    /// Waits until a look, once a second, misses entries.
    pub async fn misses_entries(&self) {
        self.shared.misses_entries.notified().await;
    }

    /// Since when Postgres gives no answer; `None` where it answered the last probe.
    #[must_use]
    pub fn postgres_outage(&self) -> Option<PostgresOutage> {
        self.shared.outage.get()
    }

    /// Takes the fence down on purpose, rebuilds, also over a Postgres that has lost commits, and answers
    /// what was done. Only a person may ask for it.
    pub async fn order_rebuild(&self) -> Result<Report, String> {
        let (answer, answered) = oneshot::channel();
        *lock(&self.shared.ordered) = Some(answer);
        if let Ok(session) = self.session() {
            self.take_down(&session.epoch, "a rebuild was ordered");
        }
        self.shared.wanted.notify_one();
        answered.await.unwrap_or_else(|_| Err("another rebuild was ordered meanwhile".into()))
    }

    /// The fence's one task: comes up, looks once a second, comes down, and so on until `stop`.
    pub async fn run(self, server: RedisServer, postgres: Postgres, stop: CancellationToken) {
        let _down = DownAtItsEnd(&self);
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
                // An error is a pause that is over.
                drop(tokio::time::timeout(pause, self.shared.wanted.notified()).await);
            }
        };
        // Dropping the work half-way is a crash that every rebuild survives: its session dies with it.
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }

    /// Probes both stores once a second, and returns when the session has ended.
    async fn watch_over(&self, session: &Arc<Session>, postgres: &Postgres) {
        let mut ticks = tokio::time::interval(config::PROBE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut durability = durability::Watch::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.shared.doubted.notified() => {}
            }
            // A broken connection would only keep whoever looks over it waiting.
            if self.session().is_err() {
                return;
            }
            let verdict = match self.look(&session.redis, postgres).await {
                Ok((seen, row)) => {
                    self.note(&seen);
                    match probe::compare(&seen, &row) {
                        // Another process has rebuilt since: every script would refuse us.
                        Ok(()) if row.epoch != session.epoch => Err(MARKER_CHANGED.to_owned()),
                        verdict => verdict.map_err(|difference| difference.sentence),
                    }
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(difference) = verdict {
                self.take_down(&session.epoch, &difference);
            }
            if self.session().is_err() {
                return;
            }
            durability.look(&session.redis).await;
        }
    }

    fn note(&self, seen: &RedisProbe) {
        self.shared.backlog.store(seen.backlog, Ordering::Relaxed);
        *lock(&self.shared.refusal) = seen.refusal.as_deref().map(Into::into);
        if seen.tally.misses_entries() {
            self.shared.misses_entries.notify_one();
        }
    }

    /// Rule 1's look: Redis as it is, beside the row as Postgres has it or as it was last read.
    async fn look(&self, redis: &Redis, postgres: &Postgres) -> anyhow::Result<(RedisProbe, FenceRow)> {
        // Redis first: a position noted there is never ahead of what Postgres says afterwards.
        let seen = crate::redis::probe::probe(redis).await?;
        let pool = postgres.pool.clone();
        let row = bounded(async move { postgres::fence::read(&pool).await }).await;
        let row = row.unwrap_or_else(|| Err(PostgresError::Transient("it gives no answer".into())));
        self.shared.outage.note(row.as_ref().err());
        match row {
            Ok(row) => {
                *lock(&self.shared.row) = Some(FenceRow { lsn: None, ..row.clone() });
                Ok((seen, row))
            }
            Err(error) => match lock(&self.shared.row).clone() {
                Some(row) => Ok((seen, row)),
                None => Err(error.into()),
            },
        }
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

/// Claims are accepted only while the task looks: the fence comes down with it, also by a panic.
struct DownAtItsEnd<'a>(&'a Fence);

impl Drop for DownAtItsEnd<'_> {
    fn drop(&mut self) {
        let reason = "the fence's task has ended".into();
        self.0.shared.state.send_replace(FenceState::Down { reason });
    }
}

impl Default for Fence {
    fn default() -> Self {
        Self::new()
    }
}

/// The part of an epoch that grows.
fn counter(epoch: &str) -> u64 {
    epoch.split('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Work on Postgres as the probe can bear it: one that hangs neither holds up the next look nor is
/// dropped half-way. `None` where it is not done in time.
async fn bounded<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    match tokio::time::timeout(config::PROBE_INTERVAL, tokio::spawn(work)).await {
        Ok(done) => {
            done.inspect_err(|panicked| tracing::error!("the fence's work ended badly: {panicked}")).ok()
        }
        Err(_) => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_not_accepted_after_the_task_that_looks_has_ended() {
        let fence = Fence::new();
        let task = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _down = DownAtItsEnd(&fence);
            panic!("the task ends before its time");
        }));
        assert!(task.is_err());
        assert_eq!(fence.session().err().as_deref(), Some("the fence's task has ended"));
    }
}
