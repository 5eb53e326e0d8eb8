//! A claim by somebody who holds a unit already: where the order that holds it has ended, the unit goes back
//! first and the claim is made again, so that nobody is told of a dead order as if it were his.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Api;
use super::problem::Problem;
use crate::fence::position::{self, EffectError};
use crate::fence::release::release;
use crate::model::{Claim, ClaimOutcome, CouponId, Order, OrderId, UserId};
use crate::recorded::NoAnswer;

/// How long a repeat waits to learn its order's status; without an answer it is `accepted`.
const STATUS_TIMEOUT: Duration = Duration::from_millis(250);
/// How often one claim is made again; each time another order of the user has ended meanwhile.
const MAX_RETRIES: usize = 3;

/// What became of a claim, and the row of the order that the user holds already, if there is one.
pub type Claimed = (ClaimOutcome, Option<Order>);

/// Makes a claim, again where a dead order stands in its way.
pub async fn claim(api: &Api, claim: Claim) -> Result<Claimed, Problem> {
    for _ in 0..=MAX_RETRIES {
        let outcome = api.gate.claim(claim.clone()).await?;
        let ClaimOutcome::Held { order, .. } = outcome else { return Ok((outcome, None)) };
        let row = row(api, &claim.coupon, order).await?;
        if !row.as_ref().is_some_and(|row| row.status.has_ended()) {
            return Ok((outcome, row));
        }
        give_back(api, &claim.coupon, &claim.user, order).await?;
    }
    Err(Problem::unavailable("your earlier orders are just ending; send the claim again"))
}

/// The row of an order; `None` where there is none yet, and where Postgres gives no answer for a coupon whose
/// orders do not end by themselves.
async fn row(api: &Api, coupon: &CouponId, order: OrderId) -> Result<Option<Order>, Problem> {
    match lookup(api, order).await {
        Ok(row) => Ok(row),
        Err(NoAnswer) if api.catalogue.orders_expire(coupon) => {
            Err(Problem::unavailable("whether your order still lives cannot be told without Postgres"))
        }
        Err(NoAnswer) => Ok(None),
    }
}

async fn lookup(api: &Api, order: OrderId) -> Result<Option<Order>, NoAnswer> {
    tokio::time::timeout(STATUS_TIMEOUT, api.recorded.lookup(order)).await.unwrap_or(Err(NoAnswer))
}

/// As the outbox would do it a moment later; the outbox then finds nothing to return.
async fn give_back(api: &Api, coupon: &CouponId, user: &UserId, order: OrderId) -> Result<(), Problem> {
    let session = api.session()?;
    position::note(&api.fence, &session, &api.postgres).await?;
    release(&api.fence, &session, coupon, user.as_str(), order).await?;
    Ok(())
}

/// The row of an order that may be on its way, waited for as long as `patience`.
pub async fn status(api: &Api, order: OrderId, patience: Duration) -> Option<Order> {
    match lookup(api, order).await {
        Ok(Some(row)) => Some(row),
        _ => wait(ask(api, order, patience), patience).await,
    }
}

/// Asks to be told when an order is recorded, if there is any patience.
pub fn ask(api: &Api, order: OrderId, patience: Duration) -> Option<oneshot::Receiver<Order>> {
    if patience.is_zero() { None } else { api.recorded.wait(order) }
}

/// The row of an order, as soon as it is recorded.
pub async fn wait(asked: Option<oneshot::Receiver<Order>>, patience: Duration) -> Option<Order> {
    tokio::time::timeout(patience, asked?).await.ok()?.ok()
}

impl From<EffectError> for Problem {
    fn from(error: EffectError) -> Self {
        match error {
            EffectError::Fenced => Self::unavailable(error.to_string()),
            EffectError::Redis(error) => error.into(),
            EffectError::Postgres(error) => error.into(),
        }
    }
}
