//! The last five minutes, second by second, for the charts of a page that has just been opened.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use utoipa::ToSchema;

use crate::config;
use crate::domain::CouponId;
use crate::metrics::{CLAIMS, WINDOW_SECONDS, count_as_f64};

/// One second.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = HistoryPoint)]
pub struct Point {
    /// Seconds since 1970, by this machine's clock.
    pub t: i64,
    #[serde(flatten)]
    pub claims: Claims,
    /// Orders recorded a second by all processes; `None` if Redis does not say.
    #[schema(required)]
    pub recorded: Option<u64>,
    /// Order events that are not recorded yet.
    pub backlog: u64,
    /// 99 of 100 orders that this process recorded in this second were committed within this time of their claim;
    /// `None` without an order.
    #[schema(required)]
    pub window_p99_ms: Option<f64>,
    /// Units left; empty while no page shows it.
    pub stock: BTreeMap<CouponId, i64>,
}

/// Claims a second in this process, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = ClaimRates)]
pub struct Claims {
    pub accepted: u64,
    /// Repeats of claims that hold a unit.
    pub repeated: u64,
    /// Refusals by the coupon's state or the user's limit.
    pub refused: u64,
    /// 503: the client may send the claim again.
    pub unavailable: u64,
}

/// Makes rates from counts.
#[derive(Default)]
pub struct Rates {
    claims: Option<Claims>,
    acknowledged: Option<i64>,
    window: Vec<(f64, u64)>,
}

impl Rates {
    /// The claims since the last call, which was a second ago.
    pub fn claims(&mut self) -> Claims {
        let mut now = Claims::default();
        for (outcome, count) in CLAIMS.read() {
            *match outcome {
                "accepted" => &mut now.accepted,
                "held" => &mut now.repeated,
                "sold-out"
                | "limit-reached"
                | "idempotency-key-required"
                | "unknown-coupon"
                | "not-started"
                | "ended"
                | "paused" => &mut now.refused,
                _ => &mut now.unavailable,
            } += count;
        }
        let before = self.claims.replace(now).unwrap_or(now);
        Claims {
            accepted: now.accepted.saturating_sub(before.accepted),
            repeated: now.repeated.saturating_sub(before.repeated),
            refused: now.refused.saturating_sub(before.refused),
            unavailable: now.unavailable.saturating_sub(before.unavailable),
        }
    }

    /// The 99th percentile of the windows since the last call, in ms.
    pub fn window_p99_ms(&mut self) -> Option<f64> {
        let now = WINDOW_SECONDS.buckets();
        let before = std::mem::replace(&mut self.window, now);
        let counted = |number: usize| before.get(number).map_or(0, |(_, count)| *count);
        let since = self.window.iter().enumerate();
        let since: Vec<(f64, u64)> =
            since.map(|(number, (upper, count))| (*upper, count.saturating_sub(counted(number)))).collect();
        quantile(0.99, &since).map(|seconds| seconds * 1_000.0)
    }

    /// The acknowledgements since the last call; `None` if a count is unknown, and 0 if a rebuild began a new count.
    pub fn recorded(&mut self, acknowledged: Option<i64>) -> Option<u64> {
        let before = std::mem::replace(&mut self.acknowledged, acknowledged)?;
        Some(u64::try_from(acknowledged? - before).unwrap_or(0))
    }
}

/// A quantile in seconds from cumulative counts by upper bound, as Prometheus's `histogram_quantile` estimates it: evenly
/// spread within a bucket. `None` without a count. A value above the last bound counts as that bound.
fn quantile(share: f64, buckets: &[(f64, u64)]) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|&count| count > 0)?;
    let rank = share * count_as_f64(total);
    let (mut lower, mut below) = (0.0, 0.0);
    for &(upper, count) in buckets {
        let count = count_as_f64(count);
        if count >= rank && upper.is_finite() {
            return Some(lower + (upper - lower) * (rank - below) / (count - below).max(1.0));
        }
        if upper.is_finite() {
            (lower, below) = (upper, count);
        }
    }
    Some(lower)
}

/// The last `LIVE_HISTORY_POINTS` points.
#[derive(Default)]
pub struct History {
    points: VecDeque<Point>,
}

impl History {
    pub fn push(&mut self, point: Point) {
        if self.points.len() == config::LIVE_HISTORY_POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// The points after a time, oldest first.
    pub fn after(&self, t: i64) -> Vec<&Point> {
        self.points.iter().filter(|point| point.t > t).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_spread_evenly_within_its_bucket() {
        let buckets = [(0.01, 50), (0.02, 100), (0.04, 100), (f64::INFINITY, 100)];
        assert_eq!(quantile(0.5, &buckets), Some(0.01));
        assert!((quantile(0.75, &buckets).unwrap() - 0.015).abs() < 1e-9);
        assert_eq!(quantile(0.99, &[(0.01, 0), (f64::INFINITY, 7)]), Some(0.01));
        assert_eq!(quantile(0.99, &[(0.01, 0)]), None);
        assert_eq!(quantile(0.99, &[]), None);
    }

    #[test]
    fn rates_are_differences_and_a_new_count_is_not_negative() {
        let mut rates = Rates::default();
        assert_eq!(rates.recorded(Some(10)), None);
        assert_eq!(rates.recorded(Some(17)), Some(7));
        assert_eq!(rates.recorded(Some(3)), Some(0));
        assert_eq!(rates.recorded(None), None);
        assert_eq!(rates.recorded(Some(5)), None);
    }
}
