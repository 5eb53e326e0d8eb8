//! An order, and the order event that carries an accepted claim to the workers.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{CouponId, InvalidId, OrderId, UserId};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderStatus {
    /// In Redis, on its way to Postgres.
    Accepted,
    Reserved,
    Confirmed,
    Cancelled,
    Expired,
    /// A dead letter: its unit went back to stock.
    Rejected,
}

impl OrderStatus {
    /// The order is no longer live: its unit is returned, or will be.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Cancelled | Self::Expired | Self::Rejected)
    }
}

/// An accepted claim as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub id: OrderId,
    pub coupon: CouponId,
    pub user: UserId,
    pub status: OrderStatus,
    pub claimed_at: OffsetDateTime,
    pub recorded_at: Option<OffsetDateTime>,
    /// Until when the order can be confirmed, by Postgres's clock; of a coupon with `reserve_seconds` only.
    pub reserved_until: Option<OffsetDateTime>,
    /// Reserved, and the time to pay was over when the row was read, by Postgres's clock: the order can no longer be
    /// confirmed, and the sweeper will expire it.
    pub is_overdue: bool,
    pub ended_at: Option<OffsetDateTime>,
    /// Of a rejection or a revocation.
    pub reason: Option<String>,
}

impl Order {
    /// An order that is on its way to Postgres: its claim was accepted, and it is not recorded yet.
    #[must_use]
    pub fn accepted(id: OrderId, coupon: CouponId, user: UserId) -> Self {
        let claimed_at = id.claimed_at().unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let status = OrderStatus::Accepted;
        let (recorded_at, reserved_until, ended_at, reason) = (None, None, None, None);
        let is_overdue = false;
        Self {
            id,
            coupon,
            user,
            status,
            claimed_at,
            recorded_at,
            reserved_until,
            is_overdue,
            ended_at,
            reason,
        }
    }

    /// Whether its unit is free for another claim: the order has ended, or it is overdue.
    #[must_use]
    pub const fn no_longer_holds(&self) -> bool {
        self.status.has_ended() || self.is_overdue
    }
}

/// The content of an entry of the order stream: an accepted claim on its way to Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderEvent {
    pub order: OrderId,
    pub coupon: CouponId,
    pub user: UserId,
}

/// Why an entry is not an order event, and its order id if that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableEvent {
    pub reason: String,
    pub order: Option<OrderId>,
}

impl OrderEvent {
    /// Reads an entry's fields: names and values in turn.
    ///
    /// # Errors
    /// When a field is missing, is not UTF-8 or is not an id of its kind.
    pub fn read<B: AsRef<[u8]>>(fields: &[B]) -> Result<Self, UnreadableEvent> {
        let get = |name: &str| -> Result<&str, String> {
            let pair = fields.chunks_exact(2).find(|pair| pair[0].as_ref() == name.as_bytes());
            let value = pair.ok_or_else(|| format!("no field `{name}`"))?[1].as_ref();
            std::str::from_utf8(value).map_err(|_| format!("field `{name}` is no UTF-8"))
        };
        let order = get("order").and_then(|text| text.parse::<OrderId>().map_err(|e| e.to_string()));
        let order = order.map_err(|reason| UnreadableEvent { reason, order: None })?;
        let unreadable = |reason: String| UnreadableEvent { reason, order: Some(order) };
        if order.claimed_at().is_none() {
            return Err(unreadable("the order id is no UUIDv7".into()));
        }
        let coupon = get("coupon").and_then(|text| text.parse().map_err(|e: InvalidId| e.to_string()));
        let user = get("user").and_then(|text| text.parse().map_err(|e: InvalidId| e.to_string()));
        Ok(Self { order, coupon: coupon.map_err(unreadable)?, user: user.map_err(unreadable)? })
    }

    /// The time inside the order's id.
    #[must_use]
    pub fn claimed_at(&self) -> OffsetDateTime {
        self.order.claimed_at().unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}
