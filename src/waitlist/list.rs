//! Shows the line to the operator.

use super::{Waitlist, WaitlistError};
use crate::domain::CouponId;
use crate::fence::StoreError;
use crate::redis::waitlist::page::{PlaceInLine, read_page};

impl Waitlist {
    /// At most `limit` users in line, in order, after the one with the number `after`.
    ///
    /// # Errors
    /// If Redis is down or does not answer.
    pub async fn page(
        &self,
        coupon: &CouponId,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<PlaceInLine>, WaitlistError> {
        let session = self.fence.require_session()?;
        Ok(read_page(&session.redis, coupon, after, limit).await.map_err(StoreError::from)?)
    }
}
