//! Confirms, cancels and revokes orders: what a caller may ask for, and why an order does not make a transition. The
//! transactions are in `batches`; the statements decide which orders change.

mod batches;

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::batches::{Asked, Batches};
use super::unrecorded::{NotFound, UnrecordedOrders};
use crate::coupons::publish::publish;
use crate::domain::{CouponId, Order, OrderId, Transition, TransitionRefusal, UserId};
use crate::fence::{Fence, StoreError};
use crate::metrics;
use crate::postgres::transitions::{AskedOrder, Revocation};
use crate::postgres::{Postgres, PostgresError, coupons, orders};
use crate::redis::RedisError;
use crate::tasks::Tasks;

/// Confirms, cancels and revokes orders. A cheap handle; clones share one queue.
#[derive(Clone)]
pub struct Transitions {
    parts: Parts,
    unrecorded: UnrecordedOrders,
    batches: Batches,
}

/// What transitions need of the program.
#[derive(Clone)]
pub struct Parts {
    pub fence: Fence,
    pub postgres: Postgres,
    /// Wakes the task that returns units from the outbox.
    pub unit_waits: Arc<Notify>,
}

/// Why an order has not made the transition, or is not known to have made it. The same request may be sent again in
/// every case: it does nothing twice.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransitionError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    #[error("{}", sentence(*.asked, *.why))]
    Refused { order: OrderId, asked: Transition, why: TransitionRefusal },
    #[error(
        "this is the only unit of the coupon, and a total is at least 1: return the unit, or raise the total first"
    )]
    LastUnit,
    #[error(transparent)]
    NotMade(#[from] NotMade),
}

/// Why a transition was not made, or is not known to have been made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotMade {
    #[error("not ready: {0}")]
    FenceDown(Arc<str>),
    #[error("the stores are being brought into agreement")]
    Fenced,
    #[error("too many requests about orders are waiting")]
    QueueFull,
    #[error("the request waited too long, and nothing was done")]
    Late,
    #[error("whether it was done is not known")]
    NoAnswer,
    /// It may be done, and Redis does not have the WAL position yet.
    #[error(transparent)]
    Redis(RedisError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

impl From<StoreError> for NotMade {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotReady(reason) => Self::FenceDown(reason),
            StoreError::Fenced => Self::Fenced,
            StoreError::Redis(error) => Self::Redis(error),
            StoreError::Postgres(error) => Self::Postgres(error),
        }
    }
}

impl NotMade {
    /// The label under which the failure is counted.
    const fn reason(&self) -> &'static str {
        match self {
            Self::FenceDown(_) => "fence-down",
            Self::Fenced => "fenced",
            Self::QueueFull => "queue-full",
            Self::Late => "late",
            Self::NoAnswer => "no-answer",
            Self::Redis(_) => "redis",
            Self::Postgres(_) => "postgres",
        }
    }
}

impl Transitions {
    /// Starts the task that makes the transactions, until `stop`.
    #[must_use]
    pub fn start(
        parts: Parts,
        unrecorded: UnrecordedOrders,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> Self {
        let batches = Batches::start(&parts, tasks, stop);
        Self { parts, unrecorded, batches }
    }

    /// Confirms an order of the user, or any order for the admin (`None`). Returns it as confirmed, now or earlier.
    ///
    /// # Errors
    /// If there is no such order of the user, it is too late, or a store cannot serve.
    pub async fn confirm(&self, order: OrderId, user: Option<&UserId>) -> Result<Order, TransitionError> {
        let confirmed = self.make(Transition::Confirm, order, user).await;
        if let Err(TransitionError::Refused { why: TransitionRefusal::Expired, .. }) = confirmed {
            metrics::REFUNDS_DUE.add(1);
            tracing::warn!(order = %order, "order {order} was confirmed too late: a payment for it is to be refunded");
        }
        confirmed
    }

    /// Cancels an order of the user, or any order for the admin (`None`). Its unit returns to stock. Returns it as
    /// cancelled, now or earlier.
    ///
    /// # Errors
    /// As [`Self::confirm`].
    pub async fn cancel(&self, order: OrderId, user: Option<&UserId>) -> Result<Order, TransitionError> {
        self.make(Transition::Cancel, order, user).await
    }

    /// Ends a confirmed order for the admin. Returns it as cancelled, now or by an earlier revocation. The lower total
    /// of a withdrawn unit is in force in Redis when this returns, or follows within about a second.
    ///
    /// # Errors
    /// As [`Self::confirm`], and if the withdrawn unit is the only one of its coupon.
    pub async fn revoke(&self, revocation: Revocation) -> Result<Order, TransitionError> {
        let order = revocation.order;
        let row = self.ask(order, None, || Asked::Revoke(revocation.clone())).await?;
        check(Transition::Revoke, &row)?;
        if !revocation.return_unit {
            if let Err(error) = self.publish(&row.coupon).await {
                tracing::debug!(coupon = %row.coupon, "the publisher repeats what failed: {error}");
            }
            self.parts.unit_waits.notify_one();
        }
        Ok(row)
    }

    async fn make(
        &self,
        transition: Transition,
        order: OrderId,
        user: Option<&UserId>,
    ) -> Result<Order, TransitionError> {
        let asked = || {
            let asked = AskedOrder { order, user: user.cloned() };
            if transition == Transition::Confirm { Asked::Confirm(asked) } else { Asked::Cancel(asked) }
        };
        let row = self.ask(order, user, asked).await?;
        check(transition, &row)?;
        Ok(row)
    }

    /// The order's row after the transaction, as `user` may see it.
    async fn ask(
        &self,
        order: OrderId,
        user: Option<&UserId>,
        asked: impl Fn() -> Asked,
    ) -> Result<Order, TransitionError> {
        let found = self.unrecorded.find(order, user, || self.batches.ask(asked())).await;
        if matches!(found, Err(TransitionError::NotFound(NotFound::Unknown | NotFound::Lost(_)))) {
            self.check_partition(order).await?;
        }
        found
    }

    /// For an order without a row in this partition: another process may have added the order's partition just now.
    async fn check_partition(&self, order: OrderId) -> Result<(), NotMade> {
        let Parts { fence, postgres, .. } = &self.parts;
        match orders::partition(&postgres.pool, order).await? {
            Some(other) if other != fence.partition() => {
                Err(NotMade::FenceDown(format!("partition {other} is starting").into()))
            }
            _ => Ok(()),
        }
    }

    /// Publishes the coupon's definition, as an edit does.
    async fn publish(&self, coupon: &CouponId) -> Result<(), StoreError> {
        let Parts { fence, postgres, .. } = &self.parts;
        let session = fence.require_session()?;
        match coupons::get(&postgres.pool, fence.partition(), coupon).await? {
            Some(row) if row.published_version < row.definition.version => {
                publish(fence, &session, postgres, false, &row.definition).await
            }
            _ => Ok(()),
        }
    }
}

fn check(asked: Transition, order: &Order) -> Result<(), TransitionError> {
    asked.check(order).map_err(|why| TransitionError::Refused { order: order.id, asked, why })
}

const fn sentence(asked: Transition, why: TransitionRefusal) -> &'static str {
    match (asked, why) {
        (Transition::Confirm, TransitionRefusal::Expired) => {
            "the time to pay is over and the unit is no longer held: refund the payment"
        }
        (Transition::Confirm, TransitionRefusal::Cancelled) => {
            "the order is cancelled and its unit is no longer held: refund a payment that was made"
        }
        (Transition::Cancel, TransitionRefusal::Confirmed) => {
            "the order is confirmed: the admin can revoke it"
        }
        (_, TransitionRefusal::Confirmed) => "the order is confirmed",
        (_, TransitionRefusal::Expired) => "the order has expired: its unit is no longer held",
        (_, TransitionRefusal::Cancelled) => "the order is cancelled already",
        (_, TransitionRefusal::Rejected) => "the order could not be recorded; its unit went back to stock",
        (_, TransitionRefusal::Reserved) => "the order is not confirmed: cancel it instead",
    }
}
