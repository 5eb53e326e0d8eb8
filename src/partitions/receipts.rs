//! The receipt of a coupon as a whole. Each share has a moment of its own: if units move between two of these moments, the
//! shares are read again.

use futures_util::future::try_join_all;

use super::Partitions;
use crate::config;
use crate::domain::CouponId;
use crate::receipt::{Receipt, ReceiptError};

impl Partitions {
    /// Reads the receipt; see [`Receipts::read`](crate::receipt::Receipts::read).
    ///
    /// # Errors
    /// As `Receipts::read`, for any partition that has a share of the coupon.
    pub async fn receipt(&self, id: &CouponId, compare: bool) -> Result<Receipt, ReceiptError> {
        let mut tries = 0;
        loop {
            let shares = self.shares(id).await?;
            let read = try_join_all(shares.iter().map(|share| share.receipts.read(id, compare))).await?;
            let whole = Receipt::of_shares(read).ok_or_else(|| ReceiptError::Unknown(id.clone()))?;
            tries += 1;
            if !self.catalogue.is_spread(id) || whole.adds_up() || tries == config::RECEIPT_MAX_TRIES {
                return Ok(whole);
            }
            tokio::time::sleep(config::RECEIPT_RETRY_PAUSE).await;
        }
    }
}
