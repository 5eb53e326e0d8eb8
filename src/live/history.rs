//! The last five minutes, second by second, for the charts of a page that has just been opened.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use utoipa::ToSchema;

use crate::config;
use crate::domain::CouponId;
use crate::metrics::CLAIMS;
use crate::metrics::readings::Readings;

/// One second.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = HistoryPoint)]
pub struct Point {
    /// Seconds since 1970, by this machine's clock.
    pub t: i64,
    #[serde(flatten)]
    pub claims: Claims,
    /// Orders recorded a second by all processes; `None` if Redis does not say.
    pub recorded: Option<u64>,
    /// Order events that are not recorded yet.
    pub backlog: u64,
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
}

impl Rates {
    /// The claims since the last call, which was a second ago.
    pub fn claims(&mut self, readings: &Readings) -> Claims {
        let mut now = Claims::default();
        for (outcome, count) in CLAIMS.read(readings) {
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

    /// The acknowledgements since the last call; `None` if a count is unknown, and 0 if a rebuild began a new count.
    pub fn recorded(&mut self, acknowledged: Option<i64>) -> Option<u64> {
        let before = std::mem::replace(&mut self.acknowledged, acknowledged)?;
        Some(u64::try_from(acknowledged? - before).unwrap_or(0))
    }
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
    fn rates_are_differences_and_a_new_count_is_not_negative() {
        let mut rates = Rates::default();
        assert_eq!(rates.recorded(Some(10)), None);
        assert_eq!(rates.recorded(Some(17)), Some(7));
        assert_eq!(rates.recorded(Some(3)), Some(0));
        assert_eq!(rates.recorded(None), None);
        assert_eq!(rates.recorded(Some(5)), None);
    }
}
