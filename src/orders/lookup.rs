//! Finds an order: its row in Postgres, or its claim in the claims hash while the order is not recorded yet. Also waits
//! for a row that a worker will write soon. Lists of recorded orders are plain queries in `postgres`.

use std::time::Duration;

use futures_util::future::join_all;
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

    /// The same subscription with at most this timeout. With zero there is nothing to wait for, also if the order is
    /// recorded by now: a client that does not wait always gets the same answer.
    #[must_use]
    pub fn at_most(self, timeout: Duration) -> Self {
        let recorded = self.recorded.filter(|_| !timeout.is_zero());
        Self { recorded, timeout: self.timeout.min(timeout) }
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

    /// Subscribes to the recording of an order that is not claimed yet. With a timeout of zero, `wait` returns at once.
    #[must_use]
    pub fn subscribe(&self, order: OrderId, timeout: Duration) -> Subscription {
        let recorded = if timeout.is_zero() { None } else { self.waiters.wait(order) };
        Subscription { recorded, timeout }
    }

    /// As [`subscribe`](Self::subscribe), for an order that was claimed before: it may be recorded already.
    #[must_use]
    pub fn subscribe_to_earlier(&self, order: OrderId, timeout: Duration) -> Subscription {
        let recorded = if timeout.is_zero() { None } else { self.waiters.wait_for_earlier(order) };
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

    /// The live orders that the user holds of the coupon, by slot. `orders_end` tells whether orders of the coupon can
    /// have ended; then an order is live only if Postgres says so.
    ///
    /// # Errors
    /// If Redis does not answer, the fence is down, or Postgres does not answer about an order that may have ended.
    pub async fn live(
        &self,
        coupon: &CouponId,
        user: &UserId,
        orders_end: bool,
    ) -> Result<Vec<Order>, StoreError> {
        let session = self.fence.require_session()?;
        let held = claims_hash::held_by(&session.redis, coupon, user).await?;
        // All at the same time, so that one query reads all rows.
        let rows = join_all(held.iter().map(|&order| self.row(order))).await;
        let accepted = |order| Order::accepted(order, coupon.clone(), user.clone());
        let mut live = Vec::new();
        for (order, row) in held.into_iter().zip(rows) {
            let row = match row {
                Ok(row) => row,
                Err(NoAnswer) if orders_end => {
                    return Err(PostgresError::Transient("it gives no answer".into()).into());
                }
                Err(NoAnswer) => None,
            };
            live.push(row.unwrap_or_else(|| accepted(order)));
        }
        live.retain(|order| !order.no_longer_holds());
        Ok(live)
    }

    /// An order of the coupon, as `viewer` may see it (`None` is the admin, who sees every order). Reads Postgres, then
    /// the claims hash, then Postgres again: a worker may have recorded the order between the first two reads. For the
    /// admin the user is unknown, so this cannot read the claims hash: it waits for an order that is not recorded yet.
    ///
    /// # Errors
    /// If the order does not exist, or if Postgres does not answer: then it is unknown whether the order is recorded,
    /// and a status must never go back to `accepted`.
    pub async fn find(
        &self,
        coupon: &CouponId,
        order: OrderId,
        viewer: Option<&UserId>,
    ) -> Result<FoundOrder, NotFound> {
        let found = match viewer {
            Some(user) => self.find_own(coupon, order, user).await?,
            None => self.find_recorded(order, None).await?,
        };
        if found.order.coupon == *coupon { Ok(found) } else { Err(NotFound::Unknown) }
    }

    async fn find_own(
        &self,
        coupon: &CouponId,
        order: OrderId,
        user: &UserId,
    ) -> Result<FoundOrder, NotFound> {
        let mut row = orders::get(&self.postgres.pool, order).await.map_err(StoreError::from)?;
        if row.is_none() {
            let session = self.fence.require_session()?;
            let held = claims_hash::held_by(&session.redis, coupon, user).await.map_err(StoreError::from)?;
            if held.contains(&order) {
                let order = Order::accepted(order, coupon.clone(), user.clone());
                return Ok(FoundOrder { order, replaced_by: None });
            }
            row = orders::get(&self.postgres.pool, order).await.map_err(StoreError::from)?;
        }
        let Some(row) = row.filter(|row| row.user == *user) else {
            return Err(self.unrecorded.why_absent(order).await);
        };
        Ok(self.with_replacement(row).await.map_err(StoreError::from)?)
    }

    /// An order by its id, as `viewer` may see it (`None` is the admin). Waits for an order that is not recorded yet.
    ///
    /// # Errors
    /// If the order does not exist or is not recorded in time, or a store does not answer.
    pub async fn find_recorded(&self, id: OrderId, viewer: Option<&UserId>) -> Result<FoundOrder, NotFound> {
        let read = || async {
            Ok::<_, NotFound>(orders::get(&self.postgres.pool, id).await.map_err(StoreError::from)?)
        };
        let row = self.unrecorded.find(id, viewer, read).await?;
        Ok(self.with_replacement(row).await.map_err(StoreError::from)?)
    }

    async fn with_replacement(&self, order: Order) -> Result<FoundOrder, PostgresError> {
        let replaced_by = match order.status {
            OrderStatus::Rejected => dead_letters::replacement(&self.postgres.pool, order.id).await?,
            _ => None,
        };
        Ok(FoundOrder { order, replaced_by })
    }

    /// Ends an overdue order and returns the unit of an ended one at once, without waiting for a worker.
    ///
    /// # Errors
    /// Where a store does not answer, or the fence is down.
    pub async fn end(&self, order: &Order) -> Result<(), StoreError> {
        self.ending.end(order.id, order.is_overdue).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subscription_without_a_wait_has_no_row_although_one_has_come() {
        let order: OrderId = OrderId::mint();
        let row = || Order::accepted(order, "coffee".parse().unwrap(), "alice".parse().unwrap());
        for (timeout, expected) in [(Duration::ZERO, None), (Duration::from_secs(9), Some(row()))] {
            let (sender, receiver) = oneshot::channel();
            sender.send(row()).unwrap();
            let subscription = Subscription { recorded: Some(receiver), timeout: Duration::from_mins(1) };
            assert_eq!(subscription.at_most(timeout).wait().await, expected);
        }
    }
}
