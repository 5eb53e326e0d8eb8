//! The report of a comparison, as the API shows it, and its metrics and log lines.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;
use utoipa::ToSchema;

use crate::config;
use crate::coupons::in_force::describe;
use crate::domain::{CouponId, FieldDifference, OrderId, Partition, UserId};
use crate::metrics;

/// The findings of a comparison. The counts are complete; `named` has at most `REPORT_MAX_NAMES` differences, for a receipt
/// at most `RECEIPT_MAX_NAMES`.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[schema(as = Comparison)]
pub struct ComparisonReport {
    /// Published coupons that were compared.
    pub coupons: usize,
    /// Claims that were compared.
    pub claims: usize,
    /// Claims whose event is not recorded yet, or whose unit is in the outbox: no difference.
    pub in_flight: usize,
    /// Claims with neither an entry nor a row: their events are lost.
    pub lost_events: usize,
    /// Claims whose order has ended: their units were not returned.
    pub missed_releases: usize,
    /// Live orders that the claims hash does not hold.
    pub missing_claims: usize,
    /// Fields of claims hashes that are not claims.
    pub foreign_fields: usize,
    /// Pending entries that another program deleted or trimmed. Those without an order row are also lost events.
    pub deleted_entries: usize,
    /// Coupons whose stock is wrong, in Redis or in Postgres.
    pub stock_drift: usize,
    /// Coupons whose definition in Redis is not Postgres's.
    pub definition_drift: usize,
    /// Users in waiting lists whom only Redis or only Postgres has.
    pub waitlist_drift: usize,
    /// Differences that were repaired.
    pub fixed: usize,
    /// Whether a difference that must not be repaired has taken the fence down.
    pub fenced: bool,
    pub named: Vec<Difference>,
}

/// One difference.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Difference {
    /// `lost_event`, `missed_release`, `missing_claim`, `foreign_field`, `stock_drift`, `definition` or `waitlist`.
    pub kind: &'static str,
    pub coupon: CouponId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderId>,
    /// The fields of a definition that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldDifference>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, coupon, order, fields, .. } = self;
        match order {
            Some(order) => write!(f, "{kind} of order {order} of coupon {coupon}"),
            None if fields.is_empty() => write!(f, "{kind} of coupon {coupon}"),
            None => write!(f, "{kind} of coupon {coupon} ({})", describe(fields)),
        }
    }
}

impl ComparisonReport {
    /// Adds the report of another partition.
    pub fn add(&mut self, other: Self) {
        self.coupons += other.coupons;
        self.claims += other.claims;
        self.in_flight += other.in_flight;
        self.lost_events += other.lost_events;
        self.missed_releases += other.missed_releases;
        self.missing_claims += other.missing_claims;
        self.foreign_fields += other.foreign_fields;
        self.deleted_entries += other.deleted_entries;
        self.stock_drift += other.stock_drift;
        self.definition_drift += other.definition_drift;
        self.waitlist_drift += other.waitlist_drift;
        self.fixed += other.fixed;
        self.fenced |= other.fenced;
        self.named.extend(other.named);
        self.named.truncate(config::REPORT_MAX_NAMES);
    }

    /// Adds a difference to `named`, if there is room.
    pub(super) fn name(&mut self, difference: Difference, most: usize) {
        if self.named.len() < most {
            self.named.push(difference);
        }
    }

    /// How many differences were found.
    #[must_use]
    pub const fn differences(&self) -> usize {
        self.lost_events
            + self.missed_releases
            + self.missing_claims
            + self.foreign_fields
            + self.stock_drift
            + self.definition_drift
            + self.waitlist_drift
    }

    /// The differences by the kinds of the metric.
    pub(super) const fn by_kind(&self) -> [(&'static str, usize); 6] {
        [
            ("lost_event", self.lost_events),
            ("missing_claim", self.missing_claims),
            ("missed_release", self.missed_releases),
            ("stock_drift", self.stock_drift),
            ("definition", self.definition_drift),
            ("waitlist", self.waitlist_drift),
        ]
    }

    pub(super) fn record_metrics(&self, partition: Partition) {
        let partition = partition.to_string();
        for (kind, differences) in self.by_kind() {
            metrics::DRIFT.set_count(&[kind, &partition], differences as u64);
            metrics::DRIFT_TOTAL.add(kind, differences as u64);
        }
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        metrics::RECONCILE_LAST.set(&[&partition], since_1970.as_secs_f64());
    }

    /// Logs the differences as a warning; without any, at debug.
    pub(super) fn log(&self) {
        let differences = self.differences();
        if differences == 0 {
            return tracing::debug!(claims = self.claims, "reconcile: {} claims agree", self.claims);
        }
        tracing::warn!(
            lost_events = self.lost_events,
            missed_releases = self.missed_releases,
            missing_claims = self.missing_claims,
            stock_drift = self.stock_drift,
            definition_drift = self.definition_drift,
            waitlist_drift = self.waitlist_drift,
            fixed = self.fixed,
            "reconcile: {differences} differences, {} repaired: {}",
            self.fixed,
            self.named.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        );
    }
}
