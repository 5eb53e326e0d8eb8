//! Finds an order that may not be recorded yet: waits for its row while its event may be in the stream, and says that
//! an order does not exist if no such event can be left. The stream decides this; a clock cannot, because the clocks of
//! the program and the stores differ.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::waiters::OrderWaiters;
use crate::config;
use crate::domain::{Order, OrderId, UserId};
use crate::fence::{Fence, Session, StoreError};
use crate::postgres::{Postgres, waitlist};
use crate::redis::order_stream;
use crate::redis::probe::{StreamProbe, StreamState, probe_tally};
use crate::redis::tally::Tally;

/// Finds orders that may not be recorded yet. A cheap handle; clones share the limit for each user.
#[derive(Clone)]
pub struct UnrecordedOrders {
    waiters: OrderWaiters,
    fence: Fence,
    postgres: Postgres,
    /// The number of waiting requests of each user.
    waiting: Arc<Mutex<HashMap<UserId, usize>>>,
}

/// Why an order was not found.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotFound {
    /// No order has this id.
    #[error("there is no such order")]
    Unknown,
    /// No store has an order with this id, and it is older than the epoch: if it was told, a Redis server has lost it.
    /// Only the order's user would know whether it was told, so an order of another user looks the same.
    #[error(
        "no store has this order any more: it was lost with a Redis server before it was recorded, or it never was an order; \
         claim again, and refund a payment for it"
    )]
    Lost(OrderId),
    /// The order's event may be in the stream and not recorded yet.
    #[error("order {0} is not recorded yet and nothing was done: send the request again")]
    NotRecordedYet(OrderId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl UnrecordedOrders {
    #[must_use]
    pub fn new(waiters: OrderWaiters, fence: Fence, postgres: Postgres) -> Self {
        Self { waiters, fence, postgres, waiting: Arc::default() }
    }

    /// The order's row from `read`, which returns `None` while Postgres has no row, if `viewer` may see it: its owner, or
    /// the admin (`None`). If the order may not be recorded yet, waits up to `UNRECORDED_ORDER_TIMEOUT` for its row. At
    /// most `UNRECORDED_ORDERS_MAX_PER_USER` requests of a user wait at once; the admin has no such limit. `read` runs at
    /// most twice.
    ///
    /// # Errors
    /// If there is no such row in time, or a store does not answer.
    pub async fn find<E, F>(
        &self,
        order: OrderId,
        viewer: Option<&UserId>,
        read: impl Fn() -> F,
    ) -> Result<Order, E>
    where
        F: Future<Output = Result<Option<Order>, E>>,
        E: From<NotFound>,
    {
        let no_order_has_this_id = order.claimed_at().is_none();
        if no_order_has_this_id {
            return Err(NotFound::Unknown.into());
        }
        let mut row = read().await?;
        if row.is_none() {
            self.wait_for_row(order, viewer).await?;
            row = read().await?;
        }
        match row.filter(|row| viewer.is_none_or(|user| *user == row.user)) {
            Some(row) => Ok(row),
            None => Err(self.why_absent(order).await.into()),
        }
    }

    /// Why the viewer finds no order with this id, although every event has become an order or a dead letter. An order that
    /// was told exists while Redis has not lost it, and a Redis that has lost something gets a new epoch.
    pub async fn why_absent(&self, order: OrderId) -> NotFound {
        let Ok(session) = self.fence.session() else { return NotFound::Unknown };
        // Before the first epoch there was no order.
        let began = session.began.filter(|_| session.number() > 1);
        let is_older =
            |began| order.claimed_at().is_some_and(|at| at < began + config::ORDER_CLOCK_TOLERANCE);
        if !began.is_some_and(is_older) {
            return NotFound::Unknown;
        }
        match waitlist::has_order(&self.postgres.pool, order).await {
            Ok(true) => NotFound::Unknown,
            Ok(false) => NotFound::Lost(order),
            Err(error) => NotFound::Store(error.into()),
        }
    }

    /// Returns when the order has a row, or when this partition will never record it.
    ///
    /// # Errors
    /// If the order may be in the stream and is not recorded in time, or a store does not answer.
    pub async fn wait_for_row(&self, order: OrderId, viewer: Option<&UserId>) -> Result<(), NotFound> {
        let session = self.fence.require_session()?;
        let tally = complete_tally(&session).await?;
        // A claim is answered after its event is appended, so the event's id is at most this one.
        let last = order_stream::last_id(&session.redis).await.map_err(StoreError::from)?.unwrap_or_default();
        if self.is_recorded_up_to(&session, &last, tally.as_ref()).await? {
            return Ok(());
        }
        let Some(_place) = self.take_place(viewer) else { return Err(NotFound::NotRecordedYet(order)) };
        let Some(recorded) = self.waiters.wait_for_earlier(order) else {
            return Err(NotFound::NotRecordedYet(order));
        };
        let waited = tokio::time::timeout(config::UNRECORDED_ORDER_TIMEOUT, recorded).await;
        if matches!(waited, Ok(Ok(_))) || self.is_recorded_up_to(&session, &last, tally.as_ref()).await? {
            return Ok(());
        }
        Err(NotFound::NotRecordedYet(order))
    }

    /// Whether every event up to this entry has become an order or a dead letter. `false` if the session has changed,
    /// because a rebuild may have sent events again at higher ids, or if the tally is no longer `tally`: events may be
    /// missing from the stream, or may have been sent again.
    async fn is_recorded_up_to(
        &self,
        session: &Session,
        entry: &str,
        tally: Option<&Tally>,
    ) -> Result<bool, StoreError> {
        let is_acknowledged =
            tally.is_some() && order_stream::is_acknowledged_up_to(&session.redis, entry).await?;
        Ok(is_acknowledged
            && complete_tally(session).await?.as_ref() == tally
            && self.fence.session().is_ok_and(|now| now.id == session.id))
    }

    /// Counts one more waiting request of the user; `None` if too many requests of the user wait already.
    fn take_place(&self, viewer: Option<&UserId>) -> Option<Place<'_>> {
        if let Some(user) = viewer {
            let mut waiting = lock(&self.waiting);
            let count = waiting.entry(user.clone()).or_default();
            if *count >= config::UNRECORDED_ORDERS_MAX_PER_USER {
                return None;
            }
            *count += 1;
        }
        Some(Place { waiting: &self.waiting, user: viewer.cloned() })
    }
}

/// The tally; `None` if events are missing from the stream and may not have been sent again yet.
async fn complete_tally(session: &Session) -> Result<Option<Tally>, StoreError> {
    let StreamProbe { state, tally, .. } = probe_tally(&session.redis).await?;
    Ok((state == StreamState::Usable && !tally.misses_entries()).then_some(tally))
}

/// One waiting request. Dropping it makes room for another request of the user.
struct Place<'a> {
    waiting: &'a Mutex<HashMap<UserId, usize>>,
    /// `None` for the admin.
    user: Option<UserId>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(user) = &self.user else { return };
        let mut waiting = lock(self.waiting);
        if let Some(count) = waiting.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(user);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
