//! Compares the orders of one coupon for its receipt. `comparison.rs` has the steps.

use super::comparison::{Comparison, RepairLevel};
use super::error::ReconcileError;
use super::throttle::Throttle;
use crate::config;
use crate::postgres::coupons::CouponRow;
use crate::redis::coupon_hash;

impl Comparison<'_> {
    /// Compares the orders of one coupon, but not its sums, and names every difference. Repairs nothing.
    ///
    /// # Errors
    /// If a store cannot serve, or the epoch changes.
    pub async fn compare_for_receipt(&mut self, row: &CouponRow) -> Result<(), ReconcileError> {
        (self.level, self.is_for_receipt) = (RepairLevel::None, true);
        self.throttle = Throttle::new(config::RECEIPT_SLEEP_PER_WORK);
        let id = &row.definition.id;
        let kept = coupon_hash::read_one(&self.session.redis, id).await?;
        self.definition(row, kept).await?;
        self.claims(id).await?;
        self.find_lost_events().await?;
        self.orders(id).await?;
        if row.definition.waitlist {
            self.waiting_list(id).await?;
        }
        Ok(())
    }
}
