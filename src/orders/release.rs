//! Rule 5: returns the unit of an order that has ended to the stock in Redis. The claims hash decides whether the order
//! still holds the unit. The caller must first record the WAL position of the order's end
//! ([`crate::fence::wal_position`]).

use crate::domain::{CouponId, OrderId};
use crate::fence::{Fence, Session, StoreError};
use crate::metrics;
use crate::redis::scripts::{self, Released};

/// Returns the unit that `field` of the claims hash holds for this order; `false` if the field names no order or
/// another one. Safe to repeat.
///
/// # Errors
/// If Redis does not answer, or the script found another marker or an inconsistent coupon.
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
        Ok(Released::Inconsistent) => {
            fence.invalidate_coupon(&session.epoch, coupon);
            Err(StoreError::Fenced)
        }
        Err(error) => {
            fence.redis_failed(&session.epoch, &error);
            Err(error.into())
        }
    }
}
