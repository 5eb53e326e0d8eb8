//! The receipt of a coupon: where each unit of its total is, by both stores, at one moment of a running sale, and each
//! order on which the stores do not agree. `docs/RECEIPT.md` defines the moment. Changes nothing.
//!
//! The moment is one read of Redis by a script. Just before it, Postgres's snapshot is taken, and the rows of both are
//! joined by these rules: an order counts as its row in the snapshot says; a unit that is held without a row is
//! accepted; a unit that is held by an ended order is on its way back and counts as stock.

mod snapshot;

use crate::domain::{CouponId, OrderId, UserId};
use crate::fence::{Fence, StoreError};
use crate::postgres::{Postgres, PostgresError};
use crate::reconcile::{ReconcileError, Reconciler};
use crate::redis::RedisError;
pub use snapshot::UnitCounts;

/// Reads receipts. A cheap handle.
#[derive(Clone)]
pub struct Receipts {
    pub fence: Fence,
    pub postgres: Postgres,
    pub reconciler: Reconciler,
}

/// The units of a coupon, and what is wrong with them.
#[derive(Clone, Debug)]
pub struct Receipt {
    pub coupon: CouponId,
    pub title: String,
    pub counts: UnitCounts,
    /// Units that `total` has more than all counts together; with no such difference, the error of a sum of one store.
    pub off_by: i64,
    /// Each order or sum that is wrong; at most `REPORT_MAX_NAMES` of each kind.
    pub exceptions: Vec<Exception>,
    /// How many there are, also those that are not named.
    pub exceptions_found: usize,
}

/// One order or sum that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    pub kind: &'static str,
    pub user: Option<UserId>,
    pub order: Option<OrderId>,
    pub why: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    #[error("there is no coupon {0}")]
    Unknown(CouponId),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Compare(#[from] ReconcileError),
}

impl From<PostgresError> for ReceiptError {
    fn from(error: PostgresError) -> Self {
        Self::Store(error.into())
    }
}

impl From<RedisError> for ReceiptError {
    fn from(error: RedisError) -> Self {
        Self::Store(error.into())
    }
}

impl Receipt {
    /// Whether every unit of the total is where both stores say.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.off_by == 0 && self.exceptions_found == 0
    }
}

impl Receipts {
    /// Reads the receipt of a coupon now.
    ///
    /// # Errors
    /// If there is no such coupon, the fence is down, or a store does not answer.
    pub async fn read(&self, id: &CouponId) -> Result<Receipt, ReceiptError> {
        let session = self.fence.require_session()?;
        let (row, counts) = snapshot::read(&session, &self.postgres, id).await?;
        let mut exceptions = Vec::new();
        if counts.redis_off_by != 0 {
            exceptions.push(Exception {
                kind: "redis_stock",
                user: None,
                order: None,
                why: format!("in Redis, stock + held units differ from the total by {}", counts.redis_off_by),
            });
        }
        if counts.postgres_off_by != 0 {
            exceptions.push(Exception {
                kind: "postgres_stock",
                user: None,
                order: None,
                why: format!(
                    "in Postgres, stock + live orders differ from the total by {}",
                    counts.postgres_off_by
                ),
            });
        }
        let off_by = [counts.off_by(), counts.redis_off_by, counts.postgres_off_by];
        let off_by = off_by.into_iter().find(|units| *units != 0).unwrap_or(0);
        Ok(Receipt {
            coupon: id.clone(),
            title: row.definition.title,
            counts,
            off_by,
            exceptions_found: exceptions.len(),
            exceptions,
        })
    }
}
