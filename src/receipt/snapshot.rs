//! What both stores have of a coupon's units at one moment. Postgres's snapshot is taken first, then one script reads
//! Redis, less than a millisecond later; the slow counts follow in the snapshot. A unit that returns to stock between the
//! two reads would be counted twice, so both stores are read again then.

use super::ReceiptError;
use crate::config;
use crate::domain::{CouponId, OrderId};
use crate::fence::{Session, StoreError};
use crate::postgres::Postgres;
use crate::postgres::coupons::CouponRow;
use crate::postgres::receipt::{OrderCounts, Snapshot, WaitingUnit};
use crate::redis::units::{self, EndedUnit, Units};

/// Both stores at one moment.
pub struct Moment {
    pub row: CouponRow,
    pub orders: OrderCounts,
    pub units: Units,
    /// Units that are held by orders that have ended.
    pub ended_held: i64,
}

/// Reads both stores; again while units come back between the reads.
///
/// # Errors
/// If Postgres does not know the coupon, the marker has changed, or a store does not answer.
pub async fn read(session: &Session, postgres: &Postgres, id: &CouponId) -> Result<Moment, ReceiptError> {
    let redis = &session.redis;
    let mut tries = 0;
    loop {
        tries += 1;
        let before = units::read(redis, id, &[]).await?;
        let mut snapshot = Snapshot::begin(&postgres.pool, session.epoch.partition).await?;
        let row = snapshot.coupon(id).await?.ok_or_else(|| ReceiptError::Unknown(id.clone()))?;
        let (waiting, in_outbox) = snapshot.outbox(id).await?;
        let ended: Vec<EndedUnit> = waiting.into_iter().map(ended_unit).collect();
        let units = units::read(redis, id, &ended).await?;
        if units.marker.as_deref() != Some(&*session.ready) {
            return Err(StoreError::Fenced.into());
        }
        let (from, to) = (&before.last_entry_id, &units.last_entry_id);
        let claimed = units::events_between(redis, id, from, to).await?;
        let returned = claimed - (units.held - before.held);
        if returned != 0 && tries < config::COUPON_COMPARE_MAX_TRIES {
            snapshot.end().await?;
            continue;
        }
        let orders = snapshot.count(id).await?;
        snapshot.end().await?;
        // The rest of a long outbox waits for Redis: its units are held.
        let not_asked = in_outbox - i64::try_from(ended.len()).unwrap_or(i64::MAX);
        let ended_held = units.still_held + not_asked;
        return Ok(Moment { row, orders, units, ended_held });
    }
}

fn ended_unit(waiting: WaitingUnit) -> EndedUnit {
    EndedUnit { order: OrderId(waiting.order_id), user: waiting.user_id, slot: waiting.slot }
}
