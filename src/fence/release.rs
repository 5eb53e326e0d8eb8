//! Rule 5: the unit of an order that has ended goes back to stock in Redis. The claims hash decides whether, and
//! that a position behind the order's end was noted before ([`super::position`]).

use super::{Fence, Session};
use crate::metrics;
use crate::model::{CouponId, OrderId};
use crate::redis::RedisError;
use crate::redis::script::{self, Released};

#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("claims are fenced off")]
    Fenced,
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// Returns the unit that `field` of the claims hash holds for this order; `false` where it holds none for it.
/// May run again and again.
pub async fn release(
    fence: &Fence,
    session: &Session,
    coupon: &CouponId,
    field: &str,
    order: OrderId,
) -> Result<bool, ReleaseError> {
    match script::release(&session.redis, &session.ready, coupon, field, order).await {
        Ok(Released::Released) => {
            metrics::UNITS_RETURNED.add(1);
            Ok(true)
        }
        Ok(Released::NotHeld) => Ok(false),
        Ok(Released::Fenced) => {
            fence.marker_changed(session);
            Err(ReleaseError::Fenced)
        }
        Ok(Released::Lost) => {
            fence.sum_fails(&session.epoch, coupon);
            Err(ReleaseError::Fenced)
        }
        Err(error) => {
            fence.redis_failed(&session.epoch, &error);
            Err(error.into())
        }
    }
}
