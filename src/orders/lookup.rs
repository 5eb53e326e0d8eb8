//! Finds an order: its row in Postgres, or its claim in the claims hash while the order is not recorded yet. Also waits
//! for a row that a worker will write soon. Lists of recorded orders are plain queries in `postgres`.

use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::sync::oneshot;

use super::expiry::EndingOrders;
use super::unrecorded::{NotFound, UnrecordedOrders};
use super::waiters::{NoAnswer, OrderWaiters};
use crate::config;
use crate::domain::{CouponId, Order, OrderId, OrderStatus, UserId};
use crate::fence::{Fence, StoreError};
use crate::postgres::{Postgres, PostgresError, dead_letters, orders};
use crate::redis::claims_hash;

/// Finds orders. A cheap handle.
#[derive(Clone)]
pub struct Orders {
    waiters: OrderWaiters,
    unrecorded: UnrecordedOrders,
    ending: EndingOrders,
    fence: Fence,
    postgres: Postgres,
}

/// An order as one viewer may see it.
#[derive(Clone, Debug)]
pub struct FoundOrder {
    pub order: Order,
    /// For a rejected order that was replayed: the order of the new claim.
    pub replaced_by: Option<OrderId>,
}

/// Waits for an order to be recorded.
pub struct Subscription {
    recorded: Option<oneshot::Receiver<Order>>,
    timeout: Duration,
}

impl Subscription {
    /// The order's row as soon as it is recorded; `None` when the timeout has passed.
    pub async fn wait(self) -> Option<Order> {
        tokio::time::timeout(self.timeout, self.recorded?).await.ok()?.ok()
    }

    /// The same with a shorter timeout.
    #[must_use]
    pub fn at_most(self, timeout: Duration) -> Self {
        Self { timeout: self.timeout.min(timeout), ..self }
    }
}

impl Orders {
    #[must_use]
    pub const fn new(
        waiters: OrderWaiters,
        unrecorded: UnrecordedOrders,
        ending: EndingOrders,
        fence: Fence,
        postgres: Postgres,
    ) -> Self {
        Self { waiters, unrecorded, ending, fence, postgres }
    }

    /// Subscribes to the recording of an order. With a timeout of zero, `wait` returns at once.
    #[must_use]
    pub fn subscribe(&self, order: OrderId, timeout: Duration) -> Subscription {
        let recorded = if timeout.is_zero() { None } else { self.waiters.wait(order) };
        Subscription { recorded, timeout }
    }

    /// The row of an order; `None` if there is none. Lookups that wait at the same time share one query.
    ///
    /// # Errors
    /// If Postgres does not answer within `ORDER_STATUS_TIMEOUT`.
    pub async fn row(&self, order: OrderId) -> Result<Option<Order>, NoAnswer> {
        let lookup = self.waiters.lookup(order);
        tokio::time::timeout(config::ORDER_STATUS_TIMEOUT, lookup).await.unwrap_or(Err(NoAnswer))
    }

    /// Waits up to `timeout` for the row of an order that may not be recorded yet.
    pub async fn row_within(&self, order: OrderId, timeout: Duration) -> Option<Order> {
        match self.row(order).await {
            Ok(Some(row)) => Some(row),
            _ => self.subscribe(order, timeout).wait().await,
        }
    }

    /// The live orders that the user holds of the coupon, by slot.
    ///
    /// # Errors
    /// Where Redis does not answer, or the fence is down.
    pub async fn live(&self, coupon: &CouponId, user: &UserId) -> Result<Vec<Order>, StoreError> {
        let session = self.fence.require_session()?;
        let held = claims_hash::held_by(&session.redis, coupon, user).await?;
        // All at once: they are looked up in one query.
        let rows = join_all(held.iter().map(|&order| self.row_within(order, Duration::ZERO))).await;
        let orders = held.into_iter().zip(rows);
        let orders = orders
            .map(|(order, row)| row.unwrap_or_else(|| Order::accepted(order, coupon.clone(), user.clone())));
        Ok(orders.filter(|order| !order.no_longer_holds()).collect())
    }

    /// An order of the coupon, as `viewer` may see it (`None` is the admin, who sees every order). Reads Postgres, then
    /// the claims hash, then Postgres again: a worker may have recorded the order between the first two reads.
    ///
    /// # Errors
    /// Without Postgres: it is then unknown whether the order is recorded, and a status must never go back to
    /// `accepted`.
    pub async fn find(
        &self,
        coupon: &CouponId,
        order: OrderId,
        viewer: Option<&UserId>,
    ) -> Result<Option<FoundOrder>, StoreError> {
        let may_see = |row: &Order| row.coupon == *coupon && viewer.is_none_or(|user| *user == row.user);
        if let Some(row) = orders::get(&self.postgres.pool, order).await? {
            if !may_see(&row) {
                return Ok(None);
            }
            return Ok(Some(self.with_replacement(row).await?));
        }
        if let Some(user) = viewer {
            let session = self.fence.require_session()?;
            if claims_hash::held_by(&session.redis, coupon, user).await?.contains(&order) {
                let order = Order::accepted(order, coupon.clone(), user.clone());
                return Ok(Some(FoundOrder { order, replaced_by: None }));
            }
        }
        // For the admin the claims hash is not searched, since the user is unknown: a worker records the order within
        // moments.
        let timeout =
            if viewer.is_none() && is_recent(order) { config::ORDER_LOOKUP_TIMEOUT } else { Duration::ZERO };
        let row = self.row_within(order, timeout).await.filter(may_see);
        Ok(row.map(|order| FoundOrder { order, replaced_by: None }))
    }

    /// An order by its id alone, as `viewer` may see it (`None` is the admin). Waits for one that is on its way.
    ///
    /// # Errors
    /// If there is none, or a store does not answer.
    pub async fn find_recorded(&self, id: OrderId, viewer: Option<&UserId>) -> Result<FoundOrder, NotFound> {
        let read = || async {
            Ok::<_, NotFound>(orders::get(&self.postgres.pool, id).await.map_err(StoreError::from)?)
        };
        let row = self.unrecorded.find(id, viewer, read).await?;
        if viewer.is_some_and(|user| *user != row.user) {
            return Err(NotFound::Unknown);
        }
        Ok(self.with_replacement(row).await.map_err(StoreError::from)?)
    }

    async fn with_replacement(&self, order: Order) -> Result<FoundOrder, PostgresError> {
        let replaced_by = match order.status {
            OrderStatus::Rejected => dead_letters::replacement(&self.postgres.pool, order.id).await?,
            _ => None,
        };
        Ok(FoundOrder { order, replaced_by })
    }

    /// Returns the unit of an order that has ended or is overdue, before the sweeper and the outbox do.
    ///
    /// # Errors
    /// Where a store does not answer, or the fence is down.
    pub async fn end(&self, order: &Order) -> Result<(), StoreError> {
        self.ending.end(order.id, order.is_overdue).await
    }
}

fn is_recent(order: OrderId) -> bool {
    let recent = config::ORDER_LOOKUP_TIMEOUT * 30;
    order.claimed_at().is_some_and(|at| OffsetDateTime::now_utc() - at < recent)
}
