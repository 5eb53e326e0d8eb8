//! Finds an order: its row in Postgres, or its claim in the claims hash while it is on its way. Also waits for a row
//! that is about to be written. Lists of recorded orders are plain queries and not here.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::oneshot;

use super::expiry::EndingOrders;
use super::waiters::{NoAnswer, OrderWaiters};
use crate::config;
use crate::domain::{CouponId, Order, OrderId, OrderStatus, UserId};
use crate::fence::{Fence, StoreError};
use crate::postgres::{Postgres, dead_letters, orders};
use crate::redis::claims_hash;

/// Finds orders. A cheap handle.
#[derive(Clone)]
pub struct Orders {
    waiters: OrderWaiters,
    ending: EndingOrders,
    fence: Fence,
    postgres: Postgres,
}

/// An order as one viewer may see it.
#[derive(Clone, Debug)]
pub struct FoundOrder {
    pub order: Order,
    /// The order of the claim that a replay of this rejected one made.
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
}

impl Orders {
    #[must_use]
    pub const fn new(waiters: OrderWaiters, ending: EndingOrders, fence: Fence, postgres: Postgres) -> Self {
        Self { waiters, ending, fence, postgres }
    }

    /// Subscribes to the recording of an order. With a timeout of zero there is nothing to wait for.
    #[must_use]
    pub fn subscribe(&self, order: OrderId, timeout: Duration) -> Subscription {
        let recorded = if timeout.is_zero() { None } else { self.waiters.wait(order) };
        Subscription { recorded, timeout }
    }

    /// The row of an order, read in one query with all others that are asked for; `None` where there is none.
    ///
    /// # Errors
    /// Where Postgres does not answer within `ORDER_STATUS_TIMEOUT`.
    pub async fn row(&self, order: OrderId) -> Result<Option<Order>, NoAnswer> {
        let lookup = self.waiters.lookup(order);
        tokio::time::timeout(config::ORDER_STATUS_TIMEOUT, lookup).await.unwrap_or(Err(NoAnswer))
    }

    /// The row of an order that may be on its way: waits up to `timeout` for it.
    pub async fn row_within(&self, order: OrderId, timeout: Duration) -> Option<Order> {
        match self.row(order).await {
            Ok(Some(row)) => Some(row),
            _ => self.subscribe(order, timeout).wait().await,
        }
    }

    /// The live order that the user holds of the coupon; `None` where the claims hash holds none.
    ///
    /// # Errors
    /// Where Redis does not answer, or the fence is down.
    pub async fn live(&self, coupon: &CouponId, user: &UserId) -> Result<LiveOrder, StoreError> {
        let session = self.fence.require_session()?;
        let Some(order) = claims_hash::held_by(&session.redis, coupon, user).await? else {
            return Ok(LiveOrder::NotHeld);
        };
        let row = self.row_within(order, Duration::ZERO).await;
        let order = row.unwrap_or_else(|| Order::accepted(order, coupon.clone(), user.clone()));
        Ok(if order.no_longer_holds() { LiveOrder::Ended } else { LiveOrder::Live(order) })
    }

    /// An order of the coupon, as `viewer` may see it (`None` is the admin, who sees every order). Reads Postgres first
    /// and the claims hash second, the direction in which a claim moves, and then Postgres again: the order may have
    /// moved between the two.
    ///
    /// # Errors
    /// Without Postgres: whether the order is still on its way is then not known, and a status never goes back.
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
            let replaced_by = match row.status {
                OrderStatus::Rejected => dead_letters::replacement(&self.postgres.pool, order).await?,
                _ => None,
            };
            return Ok(Some(FoundOrder { order: row, replaced_by }));
        }
        if let Some(user) = viewer {
            let session = self.fence.require_session()?;
            if claims_hash::held_by(&session.redis, coupon, user).await? == Some(order) {
                let order = Order::accepted(order, coupon.clone(), user.clone());
                return Ok(Some(FoundOrder { order, replaced_by: None }));
            }
        }
        // The claims hash is not searched for the order's user: an order on its way is recorded within moments.
        let timeout =
            if viewer.is_none() && is_recent(order) { config::ORDER_LOOKUP_TIMEOUT } else { Duration::ZERO };
        let row = self.row_within(order, timeout).await.filter(may_see);
        Ok(row.map(|order| FoundOrder { order, replaced_by: None }))
    }

    /// Returns the unit of an order that has ended or is overdue, before the sweeper and the outbox do.
    ///
    /// # Errors
    /// Where a store does not answer, or the fence is down.
    pub async fn end(&self, order: &Order) -> Result<(), StoreError> {
        self.ending.end(order.id, order.is_overdue).await
    }
}

/// What a user holds of a coupon.
#[derive(Clone, Debug)]
pub enum LiveOrder {
    Live(Order),
    /// The order that the claims hash still names has ended, or is overdue.
    Ended,
    NotHeld,
}

fn is_recent(order: OrderId) -> bool {
    let recent = config::ORDER_LOOKUP_TIMEOUT * 30;
    order.claimed_at().is_some_and(|at| OffsetDateTime::now_utc() - at < recent)
}
