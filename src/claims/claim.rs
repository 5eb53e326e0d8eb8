//! One claim, from its arrival to its answer. If the user already holds a unit and its order has ended or is overdue,
//! this file releases the unit and makes the claim again: the answer is never an order that has ended. The batcher
//! sends claims to Redis.

use std::time::Duration;

use super::batcher::{Batcher, Lane, Made, Unavailable};
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
    /// The least that must have a claim when it is answered; a coupon's durability may ask for more.
    answer_after: ClaimDurability,
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
    /// As `NotRecorded`; the coupon's durability requires a replica or the row.
    NotReplicated(OrderId),
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
    pub const fn new(
        batcher: Batcher,
        orders: Orders,
        catalogue: Catalogue,
        answer_after: ClaimDurability,
    ) -> Self {
        Self { batcher, orders, catalogue, answer_after }
    }

    /// The batcher, which knows whether claims are accepted.
    #[must_use]
    pub const fn batcher(&self) -> &Batcher {
        &self.batcher
    }

    /// Claims one unit for the user. If a user may hold several units of the coupon, the claim needs a key, and a claim
    /// with the same key is a repeat. Waits up to `wait` for the recording; an order that is not recorded by then is
    /// `accepted`. For a coupon with durability `postgres` it waits at least `COMMIT_WAIT`, and the result for an order
    /// that is not recorded by then is `NotRecorded`. With durability `replica`, the result for an order that neither a
    /// replica nor Postgres is known to have is `NotReplicated`.
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
        let known = self.catalogue.durability(coupon).map(|own| own.max(self.answer_after));
        let lane = match known.unwrap_or(self.answer_after) {
            ClaimDurability::Replica => Lane::Replica,
            ClaimDurability::Redis | ClaimDurability::Postgres => Lane::Redis,
        };
        let commit_wait = wait.max(config::COMMIT_WAIT);
        let needs_no_row = matches!(known, Some(ClaimDurability::Redis | ClaimDurability::Replica));
        let longest = if needs_no_row { wait } else { commit_wait };
        // Before the claim is made: its recording could be announced before a later subscription.
        let recorded = self.orders.subscribe(order, longest);
        let claim = Claim { coupon: coupon.clone(), user: user.clone(), order, key };
        let (made, row) = self.claim_past_ended_orders(&claim, lane).await?;
        let (held, stock) = match made.outcome {
            ClaimOutcome::Accepted { stock } => (None, stock),
            ClaimOutcome::Held { order, stock } => (Some(order), stock),
            ClaimOutcome::Refused(refusal) => return Ok(Claimed::Refused(refusal)),
        };
        let durability = match known {
            Some(known) => known,
            None => self.read_durability(coupon).await,
        };
        let needs_row = match durability {
            ClaimDurability::Redis => false,
            ClaimDurability::Replica if lane == Lane::Redis => !self.replicate(&claim).await?,
            ClaimDurability::Replica => !made.has_replica,
            ClaimDurability::Postgres => true,
        };
        let wait = if durability == ClaimDurability::Postgres { commit_wait } else { wait };
        let row = match (row, held) {
            (Some(row), _) => Some(row),
            (None, None) => recorded.at_most(wait).wait().await,
            (None, Some(order)) => self.orders.subscribe_to_earlier(order, wait).wait().await,
        };
        let order = held.unwrap_or(order);
        let order = match row {
            None if needs_row && durability == ClaimDurability::Replica => {
                return Ok(Claimed::NotReplicated(order));
            }
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

    /// What must have the claim of a coupon that the catalogue did not know. Redis has the coupon, so the last read of the
    /// catalogue is older than the coupon.
    async fn read_durability(&self, coupon: &CouponId) -> ClaimDurability {
        self.catalogue.refresh_briefly(Duration::ZERO).await;
        // Without Postgres the strongest promise may have been made.
        self.catalogue.durability(coupon).map_or(ClaimDurability::Postgres, |own| own.max(self.answer_after))
    }

    /// Whether a replica has a claim that was made without waiting for one. The repeat changes nothing.
    async fn replicate(&self, claim: &Claim) -> Result<bool, ClaimError> {
        Ok(self.batcher.claim(claim.clone(), Lane::Replica).await?.has_replica)
    }

    /// Makes the claim, and again after each release of a unit that an ended order held. Also returns the row of the
    /// order that held a unit before, if there is one.
    async fn claim_past_ended_orders(
        &self,
        claim: &Claim,
        lane: Lane,
    ) -> Result<(Made, Option<Order>), ClaimError> {
        for _ in 0..=config::CLAIM_MAX_RETRIES {
            let made = self.batcher.claim(claim.clone(), lane).await?;
            let ClaimOutcome::Held { order, .. } = made.outcome else { return Ok((made, None)) };
            let row = self.row(&claim.coupon, order).await?;
            match row {
                Some(row) if row.no_longer_holds() => self.orders.end(&row).await?,
                row => return Ok((made, row)),
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
