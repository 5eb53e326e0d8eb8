//! Rule 5: the unit of an order that has ended goes back to stock in Redis. The claims hash decides whether, and
//! the WAL position behind the order's end was recorded in Redis before ([`crate::fence::wal_position`]).

use crate::domain::{CouponId, OrderId};
use crate::fence::{Fence, Session, StoreError};
use crate::metrics;
use crate::redis::scripts::{self, Released};

/// Returns the unit that `field` of the claims hash holds for this order; `false` where it holds none for it.
/// May run again and again.
pub async fn release(
    fence: &Fence,
    session: &Session,
    coupon: &CouponId,
    field: &str,
    order: OrderId,
) -> Result<bool, StoreError> {
    match scripts::release(&session.redis, &session.ready, coupon, field, order).await {
        Ok(Released::Released) => {
            metrics::UNITS_RETURNED.add(1);
            Ok(true)
        }
        Ok(Released::NotHeld) => Ok(false),
        Ok(Released::Fenced) => {
            fence.marker_changed(session);
            Err(StoreError::Fenced)
        }
        Ok(Released::Lost) => {
            fence.sum_fails(&session.epoch, coupon);
            Err(StoreError::Fenced)
        }
        Err(error) => {
            fence.redis_failed(&session.epoch, &error);
            Err(error.into())
        }
    }
}
