//! One claim, from its arrival to its answer. If the user already holds a unit and its order has ended or is overdue,
//! this file releases the unit and makes the claim again: the answer is never an order that has ended. The batcher
//! sends claims to Redis.

use std::time::Duration;

use super::batcher::{Batcher, Unavailable};
use crate::config;
use crate::coupons::catalogue::Catalogue;
use crate::domain::{
    Claim, ClaimDurability, ClaimOutcome, CouponId, IdempotencyKey, Order, OrderId, Refusal, UserId,
};
use crate::fence::StoreError;
use crate::orders::lookup::Orders;
use crate::orders::waiters::NoAnswer;

/// Makes claims. A cheap handle.
#[derive(Clone)]
pub struct Claims {
    batcher: Batcher,
    orders: Orders,
    catalogue: Catalogue,
}

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The user has got a unit; `stock` is the stock just after this claim.
    Accepted {
        order: Order,
        stock: i64,
    },
    /// The user held a unit before this claim: this order.
    Held {
        order: Order,
        stock: i64,
    },
    /// The user holds a unit, but this order has no row yet, and the coupon's durability requires the row.
    NotRecorded(OrderId),
    Refused(Refusal),
}

/// Why a claim has no outcome. In every case the client may send the claim again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The unit of an ended order could not be released.
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("whether your order is still live is not known without Postgres")]
    StatusUnknown,
    #[error("your earlier orders are just ending; send the claim again")]
    OrdersEnding,
}

impl Claims {
    #[must_use]
    pub const fn new(batcher: Batcher, orders: Orders, catalogue: Catalogue) -> Self {
        Self { batcher, orders, catalogue }
    }

    /// The batcher, which knows whether claims are accepted.
    #[must_use]
    pub const fn batcher(&self) -> &Batcher {
        &self.batcher
    }

    /// Claims one unit for the user. If a user may hold several units of the coupon, the claim needs a key, and a claim
    /// with the same key is a repeat. Waits up to `wait` for the recording; an order that is not recorded by then is
    /// `accepted`. For a coupon with durability `postgres` it waits at least `COMMIT_WAIT`, and the result for an order
    /// that is not recorded by then is `NotRecorded`.
    ///
    /// # Errors
    /// If there is no outcome. The client may send the claim again: a user who holds a unit gets no second one.
    pub async fn claim(
        &self,
        coupon: &CouponId,
        user: &UserId,
        key: Option<IdempotencyKey>,
        wait: Duration,
    ) -> Result<Claimed, ClaimError> {
        let order = OrderId::mint();
        let known = self.catalogue.durability(coupon);
        let commit_wait = wait.max(config::COMMIT_WAIT);
        let longest = if known == Some(ClaimDurability::Redis) { wait } else { commit_wait };
        // Before the claim is made: its recording could be announced before a later subscription.
        let recorded = self.orders.subscribe(order, longest);
        let claim = Claim { coupon: coupon.clone(), user: user.clone(), order, key };
        let (outcome, row) = self.claim_past_ended_orders(claim).await?;
        let (held, stock) = match outcome {
            ClaimOutcome::Accepted { stock } => (None, stock),
            ClaimOutcome::Held { order, stock } => (Some(order), stock),
            ClaimOutcome::Refused(refusal) => return Ok(Claimed::Refused(refusal)),
        };
        let needs_row = self.needs_row(coupon, known).await;
        let wait = if needs_row { commit_wait } else { wait };
        let row = match (row, held) {
            (Some(row), _) => Some(row),
            (None, None) => recorded.at_most(wait).wait().await,
            (None, Some(order)) => self.orders.subscribe_to_earlier(order, wait).wait().await,
        };
        let order = held.unwrap_or(order);
        let order = match row {
            None if needs_row => return Ok(Claimed::NotRecorded(order)),
            None => Order::accepted(order, coupon.clone(), user.clone()),
            Some(row) => row,
        };
        Ok(if held.is_some() { Claimed::Held { order, stock } } else { Claimed::Accepted { order, stock } })
    }

    /// The live orders that the user holds of the coupon.
    ///
    /// # Errors
    /// If a store that has to answer does not.
    pub async fn live(&self, coupon: &CouponId, user: &UserId) -> Result<Vec<Order>, StoreError> {
        self.orders.live(coupon, user, self.catalogue.orders_end(coupon)).await
    }

    /// Whether the answer to a claim must wait for the order's row. Redis has the coupon: if the catalogue does not
    /// know the coupon, its last read is older than the coupon.
    async fn needs_row(&self, coupon: &CouponId, known: Option<ClaimDurability>) -> bool {
        if known.is_none() {
            self.catalogue.refresh_briefly(Duration::ZERO).await;
        }
        known.or_else(|| self.catalogue.durability(coupon)) != Some(ClaimDurability::Redis)
    }

    /// Makes the claim, and again after each release of a unit that an ended order held. Also returns the row of the
    /// order that held a unit before, if there is one.
    async fn claim_past_ended_orders(
        &self,
        claim: Claim,
    ) -> Result<(ClaimOutcome, Option<Order>), ClaimError> {
        for _ in 0..=config::CLAIM_MAX_RETRIES {
            let outcome = self.batcher.claim(claim.clone()).await?;
            let ClaimOutcome::Held { order, .. } = outcome else { return Ok((outcome, None)) };
            let row = self.row(&claim.coupon, order).await?;
            match row {
                Some(row) if row.no_longer_holds() => self.orders.end(&row).await?,
                row => return Ok((outcome, row)),
            }
        }
        Err(ClaimError::OrdersEnding)
    }

    /// The row of an order. `None` if the order has no row yet. Also `None` if Postgres does not answer, but only for a
    /// coupon whose orders cannot have ended.
    async fn row(&self, coupon: &CouponId, order: OrderId) -> Result<Option<Order>, ClaimError> {
        match self.orders.row(order).await {
            Ok(row) => Ok(row),
            Err(NoAnswer) if self.catalogue.orders_end(coupon) => Err(ClaimError::StatusUnknown),
            Err(NoAnswer) => Ok(None),
        }
    }
}
