//! Finds an order: its row in Postgres, or its claim in the claims hash while the order is not recorded yet. Also waits
//! for a row that a worker will write soon. Lists of recorded orders are plain queries in `postgres`.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::oneshot;

use super::release::release;
use super::waiters::{NoAnswer, OrderWaiters};
use crate::config;
use crate::domain::{CouponId, Order, OrderId, OrderStatus, UserId};
use crate::fence::{Fence, StoreError, wal_position};
use crate::postgres::{Postgres, dead_letters, orders};
use crate::redis::claims_hash;

/// Finds orders. A cheap handle.
#[derive(Clone)]
pub struct Orders {
    waiters: OrderWaiters,
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
}

impl Orders {
    #[must_use]
    pub const fn new(waiters: OrderWaiters, fence: Fence, postgres: Postgres) -> Self {
        Self { waiters, fence, postgres }
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

    /// The live order that the user holds of the coupon; `None` if the claims hash holds none.
    ///
    /// # Errors
    /// If Redis does not answer, or the fence is down.
    pub async fn live(&self, coupon: &CouponId, user: &UserId) -> Result<LiveOrder, StoreError> {
        let session = self.fence.require_session()?;
        let Some(order) = claims_hash::held_by(&session.redis, coupon, user).await? else {
            return Ok(LiveOrder::NotHeld);
        };
        let row = self.row_within(order, Duration::ZERO).await;
        let order = row.unwrap_or_else(|| Order::accepted(order, coupon.clone(), user.clone()));
        Ok(if order.status.has_ended() { LiveOrder::Ended } else { LiveOrder::Live(order) })
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
        // For the admin the claims hash is not searched, since the user is unknown: a worker records the order within
        // moments.
        let timeout =
            if viewer.is_none() && is_recent(order) { config::ORDER_LOOKUP_TIMEOUT } else { Duration::ZERO };
        let row = self.row_within(order, timeout).await.filter(may_see);
        Ok(row.map(|order| FoundOrder { order, replaced_by: None }))
    }

    /// Returns the unit of an order that has ended, before the outbox does.
    ///
    /// # Errors
    /// If a store does not answer, or the fence is down. The outbox still has the unit's row.
    pub async fn release_unit(
        &self,
        coupon: &CouponId,
        user: &UserId,
        order: OrderId,
    ) -> Result<(), StoreError> {
        let session = self.fence.require_session()?;
        wal_position::record(&self.fence, &session, &self.postgres).await?;
        release(&self.fence, &session, coupon, user.as_str(), order).await?;
        Ok(())
    }
}

/// The order that a user holds of a coupon, if there is one.
#[derive(Clone, Debug)]
pub enum LiveOrder {
    Live(Order),
    /// The claims hash still names an order that has ended.
    Ended,
    NotHeld,
}

fn is_recent(order: OrderId) -> bool {
    let recent = config::ORDER_LOOKUP_TIMEOUT * 30;
    order.claimed_at().is_some_and(|at| OffsetDateTime::now_utc() - at < recent)
}
