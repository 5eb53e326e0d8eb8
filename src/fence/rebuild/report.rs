//! The findings and changes of a rebuild, for its caller and the log.

use std::time::Instant;

use serde::Serialize;
use utoipa::ToSchema;

use super::decide::Plan;
use super::definitions::Edit;
use crate::domain::{CouponId, OrderId};
use crate::logs::info_or_warn;

/// The findings and changes of a rebuild.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = Rebuild)]
pub struct Report {
    /// The new epoch; those of several partitions with a comma between them.
    pub epoch: String,
    pub coupons: usize,
    pub claims: usize,
    /// Fields of claims hashes set or deleted.
    pub changed: usize,
    /// Order events that were appended again.
    pub resent: usize,
    /// Users in waiting lists that were written again.
    pub waiting: usize,
    pub rejected: usize,
    /// After Postgres lost commits: live orders that Redis did not hold and that had ended.
    pub cancelled: Vec<OrderId>,
    /// After Postgres lost commits: live orders that Redis did not hold, while Redis may be behind Postgres. They stay
    /// live, and an operator may have to cancel them.
    pub unheld: Vec<OrderId>,
    /// After Postgres lost commits: the number of reserved orders. Their confirms may be lost, so their time to pay
    /// starts again.
    pub restarted: u64,
    /// After Postgres lost commits: coupons that only Redis knew.
    pub adopted: Vec<CouponId>,
    /// After Postgres lost commits: definitions that were adopted from Redis, or that Redis did not confirm.
    pub edits: Vec<Edit>,
}

impl Report {
    /// The report of this partition and another one.
    #[must_use]
    pub fn merge(mut self, mut other: Self) -> Self {
        self.cancelled.append(&mut other.cancelled);
        self.unheld.append(&mut other.unheld);
        self.adopted.append(&mut other.adopted);
        self.edits.append(&mut other.edits);
        Self {
            epoch: format!("{}, {}", self.epoch, other.epoch),
            coupons: self.coupons + other.coupons,
            claims: self.claims + other.claims,
            changed: self.changed + other.changed,
            resent: self.resent + other.resent,
            waiting: self.waiting + other.waiting,
            rejected: self.rejected + other.rejected,
            restarted: self.restarted + other.restarted,
            ..self
        }
    }

    /// Adds the plan of one coupon.
    pub fn add(&mut self, plan: &mut Plan) {
        self.claims += plan.held;
        self.changed += plan.delete.len() + plan.set.len();
        self.resent += plan.resend.len();
        self.waiting += plan.line.as_ref().map_or(0, Vec::len);
        self.rejected += plan.rejected;
        self.cancelled.append(&mut plan.cancelled);
        self.unheld.append(&mut plan.unheld);
    }
}

/// Logs a rebuild that is done.
pub fn log(report: &Report, started: Instant) {
    let Report { epoch, coupons, claims, changed, resent, rejected, cancelled, unheld, restarted, .. } =
        report;
    let Report { adopted, edits, .. } = report;
    let named = cancelled.len() + unheld.len() + adopted.len() + edits.len();
    let found_nothing = changed + resent + rejected + named == 0;
    info_or_warn!(
        found_nothing,
        fence.epoch = epoch,
        coupons,
        claims,
        changed,
        resent,
        rejected,
        cancelled = cancelled.len(),
        adopted = adopted.len(),
        unheld = unheld.len(),
        edits = edits.len(),
        elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "rebuild of epoch {epoch} done: {claims} claims of {coupons} coupons, {changed} fields changed, \
         {resent} events sent again, {rejected} rejected",
    );
    for coupon in adopted {
        tracing::warn!(%coupon, "coupon {coupon} was inserted again: Postgres had lost it, and Redis holds it");
    }
    for edit in edits {
        tracing::warn!(coupon = %edit.coupon, "{}", edit.sentence());
    }
    for order in unheld {
        tracing::warn!(%order, "order {order} stays live, although Redis did not hold it: lost commits may have ended it");
    }
    if *restarted > 0 {
        tracing::warn!(
            "the time to pay of {restarted} reserved orders starts again: Postgres had lost commits, so compare these \
             orders with the payments"
        );
    }
    for order in cancelled {
        tracing::warn!(%order, "order {order} was cancelled: Postgres had lost commits, and Redis does not hold it");
    }
}
