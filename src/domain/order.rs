//! An order, and the order event that carries an accepted claim to the workers.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{CouponId, InvalidId, OrderId, UserId};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderStatus {
    /// In Redis, and not recorded in Postgres yet.
    Accepted,
    Reserved,
    Confirmed,
    Cancelled,
    Expired,
    /// Not recorded, but kept as a dead letter: its unit went back to stock.
    Rejected,
}

impl OrderStatus {
    /// Whether the order is no longer live: its unit has returned to stock, or will return.
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
    /// The time until which the order can be confirmed, by Postgres's clock. Only for a coupon with `reserve_seconds`.
    pub reserved_until: Option<OffsetDateTime>,
    pub ended_at: Option<OffsetDateTime>,
    /// Of a rejection or a revocation.
    pub reason: Option<String>,
}

impl Order {
    /// An order whose claim was accepted, and that is not recorded yet.
    #[must_use]
    pub fn accepted(id: OrderId, coupon: CouponId, user: UserId) -> Self {
        let claimed_at = id.claimed_at().unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let status = OrderStatus::Accepted;
        let (recorded_at, reserved_until, ended_at, reason) = (None, None, None, None);
        Self { id, coupon, user, status, claimed_at, recorded_at, reserved_until, ended_at, reason }
    }
}

/// The content of an entry of the order stream: an accepted claim to record in Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderEvent {
    pub order: OrderId,
    pub coupon: CouponId,
    pub user: UserId,
}

/// Why an entry is not an order event, with its order id if the id can be read.
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
            std::str::from_utf8(value).map_err(|_| format!("field `{name}` is not UTF-8"))
        };
        let order = get("order").and_then(|text| text.parse::<OrderId>().map_err(|e| e.to_string()));
        let order = order.map_err(|reason| UnreadableEvent { reason, order: None })?;
        let unreadable = |reason: String| UnreadableEvent { reason, order: Some(order) };
        if order.claimed_at().is_none() {
            return Err(unreadable("the order id is not a UUIDv7".into()));
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
