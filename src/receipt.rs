//! The receipt of a coupon: where each unit of its total is, by both stores, at one moment of a running sale, and each
//! order on which the stores do not agree. `docs/RECEIPT.md` defines the moment. Changes nothing.
//!
//! The moment is one read of Redis by a script. Just before it, Postgres's snapshot is taken, and the rows of both are
//! joined by these rules: an order counts as its row in the snapshot says; a unit that is held without a row is
//! accepted; a unit that is held by an ended order is on its way back and counts as stock.

mod counts;
mod snapshot;

use crate::coupons::in_force::describe;
use crate::domain::{CouponId, OrderId, UserId};
use crate::fence::{Fence, StoreError};
use crate::postgres::{Postgres, PostgresError};
use crate::reconcile::{ComparisonReport, Difference, ReconcileError, Reconciler};
use crate::redis::RedisError;
pub use counts::UnitCounts;
use counts::WrongUnits;

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
    /// The units of all shares; `None` for a coupon of one partition.
    pub whole: Option<i64>,
    /// Units that `total` has more than all counts together; with no such difference, the error of a sum of one store.
    pub off_by: i64,
    /// Each order or sum that is wrong; at most `RECEIPT_MAX_NAMES` orders.
    pub exceptions: Vec<Exception>,
    /// How many there are, also those that are not named.
    pub exceptions_found: usize,
    /// Whether the orders were compared; without, only the sums are checked.
    pub is_compared: bool,
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
    /// The receipt of the whole coupon, from those of its shares; `None` for no share.
    #[must_use]
    pub fn of_shares(shares: Vec<Self>) -> Option<Self> {
        let mut receipt = shares.into_iter().reduce(|mut sum, share| {
            sum.counts = sum.counts.add(&share.counts);
            sum.off_by = if sum.off_by == 0 { share.off_by } else { sum.off_by };
            sum.exceptions_found += share.exceptions_found;
            sum.exceptions.extend(share.exceptions);
            sum
        })?;
        if let Some(whole) = receipt.whole {
            let in_flight = whole - receipt.counts.total;
            receipt.counts.total = whole;
            if in_flight != 0 {
                receipt.off_by = if receipt.off_by == 0 { in_flight } else { receipt.off_by };
                receipt.exceptions_found += 1;
                let why = format!(
                    "{in_flight} units of the whole are in no share: a move or an edit is not finished"
                );
                receipt.exceptions.push(Exception { kind: "shares", user: None, order: None, why });
            }
        }
        Some(receipt)
    }

    /// Whether every unit of the total is where both stores say.
    #[must_use]
    pub const fn adds_up(&self) -> bool {
        self.off_by == 0 && self.exceptions_found == 0
    }
}

impl Receipts {
    /// Reads the receipt of a coupon now; then, with `compare`, compares its orders, which takes seconds for a hundred
    /// thousand of them.
    ///
    /// # Errors
    /// If there is no such coupon, the fence is down or comes down, or a store does not answer.
    pub async fn read(&self, id: &CouponId, compare: bool) -> Result<Receipt, ReceiptError> {
        let session = self.fence.require_session()?;
        let moment = snapshot::read(&session, &self.postgres, id).await?;
        let report = if compare {
            self.reconciler.compare_for_receipt(&session, &moment.row).await?
        } else {
            ComparisonReport::default()
        };
        let counts = UnitCounts::of(&moment, wrong_units(&report));
        let sums = wrong_sums(&counts);
        Ok(Receipt {
            coupon: id.clone(),
            title: moment.row.definition.title,
            whole: moment.row.definition.spread.map(|spread| spread.whole),
            off_by: counts.off_by(),
            counts,
            is_compared: compare,
            exceptions_found: sums.len() + report.differences(),
            exceptions: sums.into_iter().chain(report.named.into_iter().map(Exception::from)).collect(),
        })
    }
}

fn wrong_units(report: &ComparisonReport) -> WrongUnits {
    let units = |orders: usize| i64::try_from(orders).unwrap_or(i64::MAX);
    WrongUnits {
        held_by_no_order: units(report.lost_events + report.missed_releases + report.foreign_fields),
        not_held: units(report.missing_claims),
    }
}

fn wrong_sums(counts: &UnitCounts) -> Vec<Exception> {
    let sums = [
        ("redis_stock", counts.redis_off_by, "in Redis, stock and held units"),
        ("postgres_stock", counts.postgres_off_by, "in Postgres, stock and live orders"),
    ];
    let wrong = sums.into_iter().filter(|(_, off_by, _)| *off_by != 0);
    let exception = |(kind, off_by, what): (&'static str, i64, &str)| {
        let more_or_less = if off_by > 0 { "less" } else { "more" };
        let why = format!("{what} are {} {more_or_less} than the total", off_by.abs());
        Exception { kind, user: None, order: None, why }
    };
    wrong.map(exception).collect()
}

impl From<Difference> for Exception {
    fn from(difference: Difference) -> Self {
        let Difference { kind, user, order, fields, .. } = difference;
        let why = match kind {
            "lost_event" => {
                "the user holds a unit, but Postgres has no order and the stream no event".to_owned()
            }
            "missed_release" => "the order has ended, but the user still holds its unit".to_owned(),
            "missing_claim" => "the order is live in Postgres, but Redis does not hold its unit".to_owned(),
            "foreign_field" => "a field of the claims hash holds no order".to_owned(),
            "waitlist" => "only one store has the place in the waiting list".to_owned(),
            _ => format!("Redis has another definition: {}", describe(&fields)),
        };
        Self { kind, user, order, why }
    }
}
