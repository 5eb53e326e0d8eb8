//! One claim, from its arrival to its answer. If the user's order that holds a unit has ended, this releases the unit
//! and makes the claim again: the answer to a claim is never an ended order. The batcher sends claims to Redis.

use std::time::Duration;

use super::batcher::{Batcher, Unavailable};
use crate::config;
use crate::coupons::catalogue::Catalogue;
use crate::domain::{Claim, ClaimOutcome, CouponId, Order, OrderId, Refusal, UserId};
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

    /// Claims one unit for the user. Waits up to `wait` for the order to be recorded: an order that was not recorded
    /// by then is `accepted`.
    ///
    /// # Errors
    /// If there is no outcome. The client may send the claim again: a user who holds a unit gets no second one.
    pub async fn claim(
        &self,
        coupon: &CouponId,
        user: &UserId,
        wait: Duration,
    ) -> Result<Claimed, ClaimError> {
        let order = OrderId::mint();
        // Before the claim: a worker could announce the recording before a later subscription.
        let recorded = self.orders.subscribe(order, wait);
        let claim = Claim { coupon: coupon.clone(), user: user.clone(), order };
        let (outcome, row) = self.claim_past_ended_orders(claim).await?;
        let accepted = |order| Order::accepted(order, coupon.clone(), user.clone());
        Ok(match outcome {
            ClaimOutcome::Accepted { stock } => {
                let row = recorded.wait().await;
                Claimed::Accepted { order: row.unwrap_or_else(|| accepted(order)), stock }
            }
            ClaimOutcome::Held { order, stock } => {
                let row = match row {
                    None => self.orders.subscribe(order, wait).wait().await,
                    row => row,
                };
                Claimed::Held { order: row.unwrap_or_else(|| accepted(order)), stock }
            }
            ClaimOutcome::Refused(refusal) => Claimed::Refused(refusal),
        })
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
            if !row.as_ref().is_some_and(|row| row.status.has_ended()) {
                return Ok((outcome, row));
            }
            // Housekeeping would return the unit from the outbox a moment later; it then finds nothing to return.
            self.orders.release_unit(&claim.coupon, &claim.user, order).await?;
        }
        Err(ClaimError::OrdersEnding)
    }

    /// The row of an order; `None` if there is no row yet, or if Postgres does not answer and the coupon's orders do
    /// not expire.
    async fn row(&self, coupon: &CouponId, order: OrderId) -> Result<Option<Order>, ClaimError> {
        match self.orders.row(order).await {
            Ok(row) => Ok(row),
            Err(NoAnswer) if self.catalogue.orders_expire(coupon) => Err(ClaimError::StatusUnknown),
            Err(NoAnswer) => Ok(None),
        }
    }
}
