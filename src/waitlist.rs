//! The waiting list of a sold-out coupon: users join and leave, and the units that come back go to the first in line.
//! `joins` takes places in batches, `serve` gives away units that are in stock. The release script gives away each unit
//! that comes back ([`crate::orders::release`]). docs/WAITLIST.md has the rules.

mod joins;
mod list;
pub mod serve;

use tokio_util::sync::CancellationToken;

use self::joins::Joins;
use crate::config;
use crate::domain::{CouponId, IdempotencyKey, JoinRefusal, Order, OrderId, UserId, WaitingUser};
use crate::fence::{Fence, Session, StoreError};
use crate::logs::order_step;
use crate::metrics;
use crate::orders::lookup::Orders;
use crate::orders::waiters::NoAnswer;
use crate::postgres::{Postgres, waitlist as rows};
use crate::redis::waitlist::{self as line, LineOutcome, Standing, Standings};
use crate::redis::{RedisError, claims_hash};
use crate::tasks::Tasks;

/// The waiting lists of all coupons. A cheap handle; clones share one queue.
#[derive(Clone)]
pub struct Waitlist {
    fence: Fence,
    postgres: Postgres,
    orders: Orders,
    joins: Joins,
}

/// A place in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1, the next user to get a unit.
    pub number: i64,
    /// Users in line.
    pub waiting: i64,
    /// The order that the user gets with a unit. Its time is the time of joining.
    pub order: OrderId,
}

/// Where a user stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitState {
    Waiting(Place),
    /// The user has got a unit with this order, or held one before.
    Served(Order),
}

/// The answer to a request to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    New(Place),
    /// The user was in line, or holds a unit.
    Already(WaitState),
    Refused(JoinRefusal),
}

/// Why a request about a waiting list was not done, or is not known to be done. It may be sent again in every case.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WaitlistError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("too many users are joining waiting lists")]
    QueueFull,
    #[error("whether it was done is not known")]
    NoAnswer,
    #[error("whether your order is still live is not known without Postgres")]
    StatusUnknown,
    #[error("your earlier orders are just ending")]
    OrdersEnding,
}

impl Waitlist {
    /// Starts the task that takes places, until `stop`.
    #[must_use]
    pub fn start(
        fence: &Fence,
        postgres: &Postgres,
        orders: Orders,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> Self {
        let joins = Joins::start(fence, postgres, tasks, stop);
        Self { fence: fence.clone(), postgres: postgres.clone(), orders, joins }
    }

    /// Takes the last place in line for the user. A user who is in line keeps the place.
    ///
    /// # Errors
    /// If a store does not answer, or too many requests wait.
    pub async fn join(
        &self,
        coupon: &CouponId,
        user: &UserId,
        key: Option<IdempotencyKey>,
    ) -> Result<Joined, WaitlistError> {
        // A unit of an order that has ended is still held for a moment: it is released, and the user asks again.
        for _ in 0..=config::CLAIM_MAX_RETRIES {
            let order = OrderId::mint();
            let waiting = WaitingUser { user: user.clone(), order, key: key.clone() };
            let (standing, length) = self.joins.ask(coupon.clone(), waiting).await?;
            let place = |number, order| Place { number, waiting: length, order };
            match standing {
                Standing::Joined(number) => return Ok(Joined::New(place(number, order))),
                Standing::Waits { place: number, order } => {
                    return Ok(Joined::Already(WaitState::Waiting(place(number, order))));
                }
                Standing::Refused(refusal) => return Ok(Joined::Refused(refusal)),
                Standing::Held(order) => match self.row(order).await? {
                    Some(row) if row.no_longer_holds() => self.orders.end(&row).await?,
                    row => {
                        let order =
                            row.unwrap_or_else(|| Order::accepted(order, coupon.clone(), user.clone()));
                        return Ok(Joined::Already(WaitState::Served(order)));
                    }
                },
            }
        }
        Err(WaitlistError::OrdersEnding)
    }

    /// Where the user stands; `None` if the user is not in line and got no unit by the line lately.
    ///
    /// # Errors
    /// If a store does not answer.
    pub async fn get(&self, coupon: &CouponId, user: &UserId) -> Result<Option<WaitState>, WaitlistError> {
        let session = self.fence.require_session()?;
        let waiting = WaitingUser { user: user.clone(), order: OrderId::mint(), key: None };
        let looked = line::look(&session.redis, &session.ready, coupon, &[waiting]).await;
        let Standings { waiting, users } = checked(&self.fence, &session, coupon, looked)?;
        if let [Standing::Waits { place: number, order }] = users[..] {
            return Ok(Some(WaitState::Waiting(Place { number, waiting, order })));
        }
        Ok(self.served(coupon, user).await?.map(WaitState::Served))
    }

    /// Takes the user out of the line. Returns the order of a user who got a unit before the request came; a user who was
    /// not in line is out of it too.
    ///
    /// # Errors
    /// If a store does not answer. The user may still be in line.
    pub async fn leave(&self, coupon: &CouponId, user: &UserId) -> Result<Option<Order>, WaitlistError> {
        let session = self.fence.require_session()?;
        let leave = async || {
            let left = line::leave(&session.redis, &session.ready, coupon, user).await;
            checked(&self.fence, &session, coupon, left)
        };
        // Redis first: its answer tells whether the user was served before.
        let place = leave().await?;
        let served = if place.is_some() { None } else { self.served(coupon, user).await? };
        // Also rows without a place: a rebuild would bring the user back.
        let held = claims_hash::held_by(&session.redis, coupon, user).await.map_err(StoreError::from)?;
        rows::leave(&self.postgres.pool, &session.epoch, coupon, user, &held)
            .await
            .map_err(StoreError::from)?;
        // Fenced if a rebuild has read the rows before they were removed.
        if let Some(order) = leave().await? {
            rows::remove(&self.postgres.pool, &[order]).await.map_err(StoreError::from)?;
        }
        metrics::WAITLIST_LEFT.add(place.is_some().into());
        if let Some(order) = place {
            order_step!(order, "has left the waiting list");
        }
        Ok(served.filter(|order| !order.no_longer_holds()))
    }

    /// The order that the user got by the newest place that was served; `None` without one.
    async fn served(&self, coupon: &CouponId, user: &UserId) -> Result<Option<Order>, WaitlistError> {
        let asked = rows::newest_orders(&self.postgres.pool, coupon, user).await.map_err(StoreError::from)?;
        let mut live = None;
        for order in asked {
            if let Some(row) = self.row(order).await? {
                return Ok(Some(row));
            }
            if live.is_none() {
                live = Some(self.orders.live(coupon, user, true).await?);
            }
            if let Some(found) = live.iter().flatten().find(|found| found.id == order) {
                return Ok(Some(found.clone()));
            }
        }
        Ok(None)
    }

    async fn row(&self, order: OrderId) -> Result<Option<Order>, WaitlistError> {
        self.orders.row(order).await.map_err(|NoAnswer| WaitlistError::StatusUnknown)
    }
}

/// The result of a script, or the error that a fence that went down makes of it.
fn checked<T>(
    fence: &Fence,
    session: &Session,
    coupon: &CouponId,
    outcome: Result<LineOutcome<T>, RedisError>,
) -> Result<T, StoreError> {
    match outcome {
        Ok(LineOutcome::Done(result)) => Ok(result),
        Ok(LineOutcome::Fenced) => {
            fence.marker_changed(session);
            Err(StoreError::Fenced)
        }
        Ok(LineOutcome::Inconsistent) => {
            let what = "its stock, its claims or its waiting list was changed in Redis by another program";
            fence.invalidate(&session.epoch, &format!("coupon {coupon}: {what}"));
            Err(StoreError::Fenced)
        }
        Err(error) => {
            fence.redis_failed(&session.epoch, &error);
            Err(error.into())
        }
    }
}
