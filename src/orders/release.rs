//! Rule 5: returns the units of ended orders to the stock in Redis. The claims hash decides whether a unit is still
//! held. Before a unit returns, Redis has the WAL position of the order's end ([`crate::fence::wal_position`]).

use std::collections::BTreeMap;

use crate::config;
use crate::domain::CouponId;
use crate::fence::{Fence, Session, StoreError, wal_position};
use crate::logs::{order_step, shows_order_steps};
use crate::metrics;
use crate::postgres::Postgres;
use crate::postgres::outbox::{self, OutboxRow};
use crate::redis::claims_hash;
use crate::redis::scripts::release::{self as script, EndedUnit, ReleaseOutcome, Released};
use crate::redis::waitlist::Served;

/// Returns the units of outbox rows, coupon by coupon, and deletes the rows whose unit is no longer held. Keeps the row
/// of a unit that waits for a version of its coupon. Safe to repeat.
///
/// # Errors
/// If a store does not answer, or a script found another marker or an inconsistent coupon. After an inconsistent coupon
/// the units of the other coupons are still returned. The next call processes the rows that remain.
pub async fn return_units(
    fence: &Fence,
    session: &Session,
    postgres: &Postgres,
    rows: &[OutboxRow],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    wal_position::record(fence, session, postgres).await?;
    let mut coupons: BTreeMap<&CouponId, Vec<EndedUnit>> = BTreeMap::new();
    for OutboxRow { order, coupon, user, slot, after_version } in rows {
        let field = claims_hash::encode_field(user, *slot);
        let unit = EndedUnit { field, order: *order, after_version: *after_version };
        coupons.entry(coupon).or_default().push(unit);
    }
    let mut batches = Vec::new();
    for (coupon, units) in &coupons {
        batches.extend(units.chunks(config::RELEASE_BATCH_MAX_UNITS).map(|units| (*coupon, units)));
    }
    let (mut answered, mut outcome) = (Vec::with_capacity(rows.len()), Ok(()));
    for (coupon, units) in batches {
        match release(fence, session, coupon, units).await {
            Ok(released) => {
                let of_units = units.iter().zip(released);
                let is_over = of_units.filter(|(_, released)| *released != Released::TooEarly);
                answered.extend(is_over.map(|(unit, _)| unit.order));
            }
            Err(error @ StoreError::Redis(_)) => {
                outcome = Err(error);
                break;
            }
            // An inconsistent coupon must not delay the units of the others.
            Err(error) => outcome = Err(error),
        }
    }
    outbox::remove(&postgres.pool, &session.epoch, &answered).await?;
    outcome
}

/// Returns at most `RELEASE_BATCH_MAX_UNITS` units of one coupon; one result for each. Safe to repeat.
///
/// # Errors
/// If Redis does not answer, or the script found another marker or an inconsistent coupon.
pub async fn release(
    fence: &Fence,
    session: &Session,
    coupon: &CouponId,
    asked: &[EndedUnit],
) -> Result<Vec<Released>, StoreError> {
    match script::release(&session.redis, &session.ready, coupon, asked).await {
        Ok(ReleaseOutcome::Done { units, served }) => {
            let returned = units.iter().filter(|released| **released == Released::Released);
            metrics::UNITS_RETURNED.add(returned.count() as u64);
            if shows_order_steps() {
                log_returned(coupon, asked, &units);
            }
            record_served(coupon, &served);
            Ok(units)
        }
        Ok(ReleaseOutcome::Fenced) => {
            fence.marker_changed(session);
            Err(StoreError::Fenced)
        }
        Ok(ReleaseOutcome::Inconsistent) => {
            fence.invalidate_coupon(&session.epoch, coupon);
            Err(StoreError::Fenced)
        }
        Err(error) => {
            fence.redis_failed(&session.epoch, &error);
            Err(error.into())
        }
    }
}

/// Counts and logs the units that went to users in line.
pub fn record_served(coupon: &CouponId, served: &Served) {
    metrics::WAITLIST_SERVED.add(u64::try_from(served.units).unwrap_or(0));
    if shows_order_steps() {
        for order in &served.orders {
            order_step!(order, %coupon, "served from the waiting list");
        }
    }
}

fn log_returned(coupon: &CouponId, asked: &[EndedUnit], units: &[Released]) {
    for (EndedUnit { order, .. }, released) in asked.iter().zip(units) {
        match released {
            Released::Released => order_step!(order, %coupon, "unit returned"),
            Released::NotHeld => order_step!(order, %coupon, "unit was returned before"),
            Released::TooEarly => order_step!(order, %coupon, "unit waits for the lower total"),
        }
    }
}
