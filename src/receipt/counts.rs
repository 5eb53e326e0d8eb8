//! The counts of a receipt: joins what both stores have into one state for each unit.

use super::snapshot::Moment;

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

/// Units that the comparison of the orders has found wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WrongUnits {
    /// Held in Redis, but neither in flight nor of a live order.
    pub held_by_no_order: i64,
    /// Of live orders that Redis does not hold.
    pub not_held: i64,
}

impl UnitCounts {
    pub fn of(moment: &Moment, wrong: WrongUnits) -> Self {
        let Moment { row, orders, units, ended_held } = moment;
        let (stock, total) = (units.stock.unwrap_or(0), units.total.unwrap_or(row.definition.total));
        let live = orders.reserved + orders.confirmed;
        let accepted = units.held - ended_held - wrong.held_by_no_order - (live - wrong.not_held);
        // Units that came back between the two reads, although their orders were live in the first.
        let come_back = (-accepted).max(0);
        let of_reserved = come_back.min(orders.reserved);
        Self {
            now_ms: units.now_ms,
            total,
            stock: stock + ended_held,
            returning: *ended_held,
            accepted: accepted.max(0),
            reserved: orders.reserved - of_reserved,
            confirmed: orders.confirmed - (come_back - of_reserved).min(orders.confirmed),
            returned: row.returned,
            rejected: orders.rejected,
            redis_off_by: total - stock - units.held,
            postgres_off_by: row.definition.total - row.stock - live,
        }
    }

    /// The sum of two shares, at the later of their times.
    #[must_use]
    pub fn add(&self, other: &Self) -> Self {
        Self {
            now_ms: self.now_ms.max(other.now_ms),
            total: self.total + other.total,
            stock: self.stock + other.stock,
            returning: self.returning + other.returning,
            accepted: self.accepted + other.accepted,
            reserved: self.reserved + other.reserved,
            confirmed: self.confirmed + other.confirmed,
            returned: self.returned + other.returned,
            rejected: self.rejected + other.rejected,
            redis_off_by: self.redis_off_by + other.redis_off_by,
            postgres_off_by: self.postgres_off_by + other.postgres_off_by,
        }
    }

    /// Units that the total has more than all counts together; with no such difference, the error of a sum of one store.
    #[must_use]
    pub fn off_by(&self) -> i64 {
        let counted = self.stock + self.accepted + self.reserved + self.confirmed;
        let all = [self.total - counted, self.redis_off_by, self.postgres_off_by];
        all.into_iter().find(|units| *units != 0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::domain::{ClaimDurability, Definition, Partition};
    use crate::postgres::coupons::CouponRow;
    use crate::postgres::receipt::OrderCounts;
    use crate::redis::units::Units;

    /// A coupon of 10 units: 3 in stock, 7 held, of which 1 by an ended order; 2 reserved and 3 confirmed orders.
    fn moment() -> Moment {
        let definition = Definition {
            id: "coffee".parse().unwrap(),
            title: "coffee".into(),
            total: 10,
            starts_at: None,
            ends_at: None,
            paused: false,
            per_user_limit: 1,
            reserve_seconds: Some(60),
            durability: ClaimDurability::Redis,
            waitlist: false,
            unlisted: false,
            version: 1,
            spread: None,
        };
        let row = CouponRow {
            definition,
            partition: Partition::DEFAULT,
            published_version: 1,
            stock: 5,
            changed_at: OffsetDateTime::UNIX_EPOCH,
            has_ended_orders: false,
            returned: 4,
        };
        let units = Units {
            now_ms: 1,
            marker: None,
            last_entry_id: "0-0".into(),
            held: 7,
            still_held: 1,
            stock: Some(3),
            total: Some(10),
            version: Some(1),
        };
        let orders = OrderCounts { reserved: 2, confirmed: 3, rejected: 0 };
        Moment { row, orders, units, ended_held: 1 }
    }

    fn counted(moment: &Moment, wrong: WrongUnits) -> [i64; 5] {
        let counts = UnitCounts::of(moment, wrong);
        [counts.stock, counts.accepted, counts.reserved, counts.confirmed, counts.off_by()]
    }

    #[test]
    fn each_unit_is_in_one_state() {
        assert_eq!(counted(&moment(), WrongUnits::default()), [4, 1, 2, 3, 0]);
    }

    #[test]
    fn a_unit_that_no_order_holds_is_in_no_state() {
        let wrong = WrongUnits { held_by_no_order: 1, ..WrongUnits::default() };
        assert_eq!(counted(&moment(), wrong), [4, 0, 2, 3, 1]);
    }

    #[test]
    fn a_claim_that_was_deleted_in_redis_is_an_error_of_its_sum() {
        let mut moment = moment();
        moment.units.held -= 1;
        let wrong = WrongUnits { not_held: 1, ..WrongUnits::default() };
        assert_eq!(counted(&moment, wrong), [4, 1, 2, 3, 1]);
    }

    #[test]
    fn an_edited_stock_is_an_error_of_its_store() {
        let mut edited = moment();
        edited.units.stock = Some(5);
        assert_eq!(counted(&edited, WrongUnits::default())[4], -2);
        let mut edited = moment();
        edited.row.stock += 2;
        assert_eq!(counted(&edited, WrongUnits::default())[4], -2);
    }

    #[test]
    fn units_that_come_back_between_the_reads_are_in_stock_alone() {
        let mut moment = moment();
        // Three orders that the snapshot has as live have ended, and their units are in stock.
        (moment.units.held, moment.units.stock) = (4, Some(6));
        assert_eq!(counted(&moment, WrongUnits::default()), [7, 0, 0, 3, 0]);
    }
}
