//! How other parts take the fence down: a script found another marker, data is known to be lost, Redis failed. The fence
//! comes down at once; its task then probes and rebuilds.

use super::probe::Difference;
use super::{Fence, FenceState, MARKER_CHANGED, Session, lock};
use crate::domain::{CouponId, Epoch};
use crate::redis::RedisError;

/// Evidence that a later probe would not find, such as a coupon that is inconsistent.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub epoch: Epoch,
    pub reason: String,
    /// Postgres has lost commits.
    pub by_postgres: bool,
}

impl Evidence {
    pub(super) fn as_difference(&self) -> Difference {
        let cause = if self.by_postgres { "postgres" } else { "loss" };
        Difference { cause, sentence: self.reason.clone(), is_normal: false }
    }
}

impl Fence {
    /// Takes the fence down until the next probe: a script found another marker.
    pub fn marker_changed(&self, session: &Session) {
        self.take_down(&session.epoch, MARKER_CHANGED);
    }

    /// Takes the fence down until a rebuild: a coupon is inconsistent.
    pub fn invalidate_coupon(&self, epoch: &Epoch, coupon: &CouponId) {
        self.invalidate(epoch, &format!("coupon {coupon}: stock + claims is not its total in Redis"));
    }

    /// Takes the fence down until a rebuild: Redis has lost data of this epoch.
    pub fn invalidate(&self, epoch: &Epoch, reason: &str) {
        tracing::error!(fence.epoch = epoch.as_str(), "fence: {reason}: claims wait for a rebuild");
        self.record_evidence(epoch, reason, false);
    }

    /// Takes the fence down until an operator orders a rebuild: Postgres has lost commits.
    pub fn report_postgres_loss(&self, epoch: &Epoch, reason: &str) {
        tracing::error!(fence.epoch = epoch.as_str(), "fence: {reason}");
        self.record_evidence(epoch, reason, true);
    }

    fn record_evidence(&self, epoch: &Epoch, reason: &str, by_postgres: bool) {
        let mut evidence = Evidence { epoch: epoch.clone(), reason: reason.to_owned(), by_postgres };
        let mut known = lock(&self.shared.evidence);
        evidence.by_postgres |=
            known.as_ref().is_some_and(|known| known.epoch == *epoch && known.by_postgres);
        // Evidence from a part that still works in an older epoch must not hide evidence of a newer one.
        if known.as_ref().is_none_or(|known| known.epoch.counter() <= epoch.counter()) {
            *known = Some(evidence);
        }
        drop(known);
        if self.session().is_err() {
            self.shared.wanted.notify_one();
        }
        self.take_down(epoch, reason);
    }

    /// Decides by an error of Redis whether the fence comes down.
    pub fn redis_failed(&self, epoch: &Epoch, error: &RedisError) {
        match error {
            RedisError::WrongType(_) => self.invalidate(epoch, &error.to_string()),
            // Redis still reads: workers go on, and acknowledging entries makes room. A slot that moves is refused until it
            // has moved, or stays.
            RedisError::Busy(_) if error.is_about_writes() || error.is_about_moving_slot() => {
                *lock(&self.shared.refusal) = Some(error.to_string().into());
            }
            _ => {
                self.take_down(epoch, &error.to_string());
                // No rebuild has failed: the next probe starts at once, even after a short session.
                self.shared.wanted.notify_one();
            }
        }
    }

    pub(super) fn take_down(&self, epoch: &Epoch, reason: &str) {
        self.shared.state.send_if_modified(|state| match state {
            FenceState::Up(session) if session.epoch == *epoch => {
                *state = FenceState::Down { reason: reason.into() };
                true
            }
            _ => false,
        });
        self.shared.doubted.notify_one();
    }
}
