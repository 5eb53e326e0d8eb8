//! Rule 5: the unit of an order that has ended goes back to stock in Redis. The claims hash decides whether, and
//! that a position behind the order's end was noted before ([`super::position`]).

use super::position::EffectError;
use super::{Fence, Session};
use crate::metrics;
use crate::model::{CouponId, OrderId};
use crate::redis::script::{self, Released};

/// Returns the unit that `field` of the claims hash holds for this order; `false` where it holds none for it.
/// May run again and again.
pub async fn release(
    fence: &Fence,
    session: &Session,
    coupon: &CouponId,
    field: &str,
    order: OrderId,
) -> Result<bool, EffectError> {
    match script::release(&session.redis, &session.ready, coupon, field, order).await {
        Ok(Released::Released) => {
            metrics::UNITS_RETURNED.add(1);
            Ok(true)
        }
        Ok(Released::NotHeld) => Ok(false),
        Ok(Released::Fenced) => {
            fence.marker_changed(session);
            Err(EffectError::Fenced)
        }
        Ok(Released::Lost) => {
            fence.sum_fails(&session.epoch, coupon);
            Err(EffectError::Fenced)
        }
        Err(error) => {
            fence.redis_failed(&session.epoch, &error);
            Err(error.into())
        }
    }
}
