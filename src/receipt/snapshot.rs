//! The counts of a receipt at one moment. Postgres's snapshot is taken first, then one script reads Redis, which takes
//! less than a millisecond; the slow counts follow in the snapshot. A unit that returns to stock between the two reads
//! would be counted twice, so both are read again then.

use super::ReceiptError;
use crate::config;
use crate::domain::{CouponId, OrderId};
use crate::fence::{Session, StoreError};
use crate::postgres::Postgres;
use crate::postgres::coupons::CouponRow;
use crate::postgres::receipt::{OrderCounts, Snapshot, WaitingUnit};
use crate::redis::units::{self, EndedUnit, Units};

/// Where the units of a coupon are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitCounts {
    /// Redis's clock, ms since 1970.
    pub now_ms: i64,
    pub total: i64,
    /// Units that can be claimed, and those of `returning`.
    pub stock: i64,
    /// Units of ended orders that are still held: a worker returns them to stock, or takes them out of the sale.
    pub returning: i64,
    /// Units of claims that have no row yet.
    pub accepted: i64,
    pub reserved: i64,
    pub confirmed: i64,
    /// Units that came back to stock since the coupon was created.
    pub returned: i64,
    /// Rejected orders since the coupon was created.
    pub rejected: i64,
    /// In Redis: total minus stock minus held units.
    pub redis_off_by: i64,
    /// In Postgres: total minus stock minus live orders.
    pub postgres_off_by: i64,
}

impl UnitCounts {
    /// Units of the total that no count has.
    #[must_use]
    pub const fn off_by(&self) -> i64 {
        self.total - self.stock - self.accepted - self.reserved - self.confirmed
    }

    /// Joins a row, the counts of its orders, and what Redis has. `ended_held` units are held by ended orders.
    fn of(row: &CouponRow, orders: OrderCounts, units: &Units, ended_held: i64) -> Self {
        let (stock, total) = (units.stock.unwrap_or(0), units.total.unwrap_or(row.definition.total));
        let accepted = units.held - ended_held - orders.reserved - orders.confirmed;
        // Units that came back between the two reads, although the row's order was live in the first.
        let missing = (-accepted).max(0);
        let of_reserved = missing.min(orders.reserved);
        Self {
            now_ms: units.now_ms,
            total,
            stock: stock + ended_held,
            returning: ended_held,
            accepted: accepted.max(0),
            reserved: orders.reserved - of_reserved,
            confirmed: orders.confirmed - (missing - of_reserved).min(orders.confirmed),
            returned: row.returned,
            rejected: orders.rejected,
            redis_off_by: total - stock - units.held,
            postgres_off_by: row.definition.total - row.stock - orders.reserved - orders.confirmed,
        }
    }
}

/// Reads both stores; again while units come back between the reads.
///
/// # Errors
/// If Postgres does not know the coupon, the marker has changed, or a store does not answer.
pub async fn read(
    session: &Session,
    postgres: &Postgres,
    id: &CouponId,
) -> Result<(CouponRow, UnitCounts), ReceiptError> {
    let redis = &session.redis;
    let mut tries = 0;
    loop {
        tries += 1;
        let before = units::read(redis, id, &[]).await?;
        let mut snapshot = Snapshot::begin(&postgres.pool).await?;
        let row = snapshot.coupon(id).await?.ok_or_else(|| ReceiptError::Unknown(id.clone()))?;
        let (waiting, in_outbox) = snapshot.outbox(id).await?;
        let unit = |waiting: WaitingUnit| EndedUnit {
            order: OrderId(waiting.order_id),
            user: waiting.user_id,
            slot: waiting.slot,
        };
        let ended: Vec<EndedUnit> = waiting.into_iter().map(unit).collect();
        let units = units::read(redis, id, &ended).await?;
        if units.marker.as_deref() != Some(&*session.ready) {
            return Err(StoreError::Fenced.into());
        }
        let claimed = units::events_between(redis, id, &before.last_entry_id, &units.last_entry_id).await?;
        let returned = claimed - (units.held - before.held);
        if returned != 0 && tries < config::COUPON_COMPARE_MAX_TRIES {
            snapshot.end().await?;
            continue;
        }
        let orders = snapshot.count(id).await?;
        snapshot.end().await?;
        // The rest of a long outbox waits for Redis: its units are held.
        let not_asked = in_outbox - i64::try_from(ended.len()).unwrap_or(i64::MAX);
        let counts = UnitCounts::of(&row, orders, &units, units.still_held + not_asked);
        return Ok((row, counts));
    }
}
