//! An order, and the order event that carries an accepted claim to the workers.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{CouponId, IdempotencyKey, InvalidId, OrderId, UserId};
use crate::config;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// The slot of the order's unit, from 1 on. It is 1 while the order is not recorded.
    pub slot: i16,
    pub status: OrderStatus,
    pub claimed_at: OffsetDateTime,
    pub recorded_at: Option<OffsetDateTime>,
    /// The time until which the order can be confirmed, by Postgres's clock. Only for a coupon with `reserve_seconds`.
    pub reserved_until: Option<OffsetDateTime>,
    /// The order was reserved, and its time to pay was over by Postgres's clock, when the row was read. It can no
    /// longer be confirmed; the sweeper will expire it.
    pub is_overdue: bool,
    /// When a reserved order was confirmed; `None` for an order that was recorded as confirmed.
    pub confirmed_at: Option<OffsetDateTime>,
    pub ended_at: Option<OffsetDateTime>,
    /// Why the order was rejected or revoked.
    pub reason: Option<String>,
}

impl Order {
    /// An order whose claim was accepted, and that is not recorded yet.
    #[must_use]
    pub fn accepted(id: OrderId, coupon: CouponId, user: UserId) -> Self {
        let claimed_at = id.claimed_at().unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let status = OrderStatus::Accepted;
        let (recorded_at, reserved_until, confirmed_at) = (None, None, None);
        let (ended_at, reason) = (None, None);
        let is_overdue = false;
        Self {
            id,
            coupon,
            user,
            slot: 1,
            status,
            claimed_at,
            recorded_at,
            reserved_until,
            is_overdue,
            confirmed_at,
            ended_at,
            reason,
        }
    }

    /// Whether the order's unit may go to another claim: the order has ended, or it is overdue.
    #[must_use]
    pub const fn no_longer_holds(&self) -> bool {
        self.status.has_ended() || self.is_overdue
    }
}

/// The content of an entry of the order stream: an accepted claim to record in Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderEvent {
    pub order: OrderId,
    pub coupon: CouponId,
    pub user: UserId,
    /// The slot of the claimed unit, from 1 to the coupon's limit for each user.
    pub slot: i16,
    /// The claim's Idempotency-Key. Only a coupon of which a user may hold several units has keys.
    pub key: Option<IdempotencyKey>,
}

/// Why an entry is not an order event, with its order id if the id can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableEvent {
    pub reason: String,
    pub order: Option<OrderId>,
}

impl OrderEvent {
    /// Reads an entry's fields: names and values in turn. Without a field `slot` the slot is 1.
    ///
    /// # Errors
    /// If a field is missing, is not UTF-8 or is not a valid id, key or slot.
    pub fn read<B: AsRef<[u8]>>(fields: &[B]) -> Result<Self, UnreadableEvent> {
        let find = |name: &str| -> Result<Option<&str>, String> {
            let Some(pair) = fields.chunks_exact(2).find(|pair| pair[0].as_ref() == name.as_bytes()) else {
                return Ok(None);
            };
            let value = std::str::from_utf8(pair[1].as_ref());
            value.map(Some).map_err(|_| format!("field `{name}` is not UTF-8"))
        };
        let get = |name: &str| find(name)?.ok_or_else(|| format!("no field `{name}`"));
        let order = get("order").and_then(|text| text.parse::<OrderId>().map_err(|e| e.to_string()));
        let order = order.map_err(|reason| UnreadableEvent { reason, order: None })?;
        let unreadable = |reason: String| UnreadableEvent { reason, order: Some(order) };
        if order.claimed_at().is_none() {
            return Err(unreadable("the order id is not a UUIDv7".into()));
        }
        let coupon = get("coupon").and_then(|text| text.parse().map_err(|e: InvalidId| e.to_string()));
        let user = get("user").and_then(|text| text.parse().map_err(|e: InvalidId| e.to_string()));
        let slot = find("slot").and_then(|text| text.map_or(Ok(1), parse_slot));
        let key = find("key")
            .and_then(|text| text.map(|text| text.parse().map_err(|e: InvalidId| e.to_string())).transpose());
        Ok(Self {
            order,
            coupon: coupon.map_err(unreadable)?,
            user: user.map_err(unreadable)?,
            slot: slot.map_err(unreadable)?,
            key: key.map_err(unreadable)?,
        })
    }

    /// The fields of an entry: names and values in turn.
    #[must_use]
    pub fn fields(&self) -> Vec<String> {
        let order = self.order.to_string();
        let mut fields = ["order", &order, "coupon", self.coupon.as_str(), "user", self.user.as_str()]
            .map(str::to_owned)
            .to_vec();
        if self.slot > 1 || self.key.is_some() {
            fields.extend(["slot".to_owned(), self.slot.to_string()]);
        }
        fields.extend(self.key.iter().flat_map(|key| ["key".to_owned(), key.to_string()]));
        fields
    }

    /// The time inside the order's id.
    #[must_use]
    pub fn claimed_at(&self) -> OffsetDateTime {
        self.order.claimed_at().unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

/// Reads a slot, a number from 1 to `PER_USER_LIMIT_MAX`. Accepts no second spelling of a number, such as `01`.
fn parse_slot(text: &str) -> Result<i16, String> {
    let slot = text.parse().ok().filter(|slot: &i16| slot.to_string() == text);
    slot.filter(|&slot| (1..=config::PER_USER_LIMIT_MAX).contains(&slot.into()))
        .ok_or_else(|| format!("field `slot` is not a number from 1 to {}", config::PER_USER_LIMIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = "01a20dfc-6229-756f-bc31-2593204e6701";

    fn read(more: &[&str]) -> Result<OrderEvent, UnreadableEvent> {
        let fields = ["order", ORDER, "coupon", "coffee", "user", "alice"];
        OrderEvent::read(&[&fields, more].concat())
    }

    #[test]
    fn an_event_without_a_slot_is_of_slot_1() {
        let event = read(&[]).unwrap();
        assert_eq!((event.slot, event.key), (1, None));
    }

    #[test]
    fn a_written_event_is_read_back_unchanged() {
        for event in [read(&[]), read(&["slot", "1", "key", "k"]), read(&["slot", "16", "key", "!~"])] {
            let event = event.unwrap();
            assert_eq!(OrderEvent::read(&event.fields()), Ok(event));
        }
    }

    #[test]
    fn an_event_with_an_invalid_slot_or_key_is_unreadable() {
        let too_long = "k".repeat(config::IDEMPOTENCY_KEY_MAX_BYTES + 1);
        for slot in ["", "0", "17", "-1", "01", "+2", "two", "2 "] {
            let unreadable = read(&["slot", slot, "key", "k"]).unwrap_err();
            assert!(
                unreadable.reason.contains("slot") && unreadable.order.is_some(),
                "{slot:?}: {unreadable:?}"
            );
        }
        for key in ["", " ", "a b", "клю", &too_long] {
            let unreadable = read(&["slot", "2", "key", key]).unwrap_err();
            assert!(
                unreadable.reason.contains("Key") && unreadable.order.is_some(),
                "{key:?}: {unreadable:?}"
            );
        }
    }
}
