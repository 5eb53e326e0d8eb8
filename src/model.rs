//! The words of the program as types: ids that are valid by construction, a claim and its outcome,
//! a coupon's definition, an order. No input or output here.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::config;

/// `[A-Za-z0-9][A-Za-z0-9_-]{0,62}`
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct CouponId(Arc<str>);

/// 1 to 128 bytes of UTF-8 without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct UserId(Arc<str>);

/// A UUIDv7, minted before the script runs, so that a script that is sent twice claims once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OrderId(pub Uuid);

/// Why a text is no id; the sentence is fit for an error's `detail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("a coupon id is 1 to 63 letters, digits, `_` or `-`, and starts with a letter or digit")]
    Coupon,
    #[error("a user id is 1 to 128 bytes of UTF-8 without control characters")]
    User,
    #[error("an order id is a UUID")]
    Order,
}

/// Why a text is no point in time; the sentence shows how one is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an RFC 3339 time with its offset: write 2026-11-11T20:00:00+01:00, or 2026-11-11T19:00:00Z for UTC"
)]
pub struct InvalidTime;

/// Reads an RFC 3339 time, which always names its offset from UTC.
pub fn parse_time(text: &str) -> Result<OffsetDateTime, InvalidTime> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTime)
}

impl CouponId {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl UserId {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for CouponId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let bytes = text.as_bytes();
        let valid = bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.len() <= config::COUPON_ID_MAX_BYTES
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if valid { Ok(Self(text.into())) } else { Err(InvalidId::Coupon) }
    }
}

impl FromStr for UserId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let valid =
            (1..=config::USER_ID_MAX_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
        if valid { Ok(Self(text.into())) } else { Err(InvalidId::User) }
    }
}

impl FromStr for OrderId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // Only the hyphenated form: the text is a key's value in Redis and must have one spelling.
        if text.len() != 36 {
            return Err(InvalidId::Order);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidId::Order)
    }
}

impl OrderId {
    /// A new id whose time is now.
    #[must_use]
    pub fn mint() -> Self {
        Self(Uuid::now_v7())
    }

    /// The time inside the id, which no repair changes; `None` for an id of another version.
    #[must_use]
    pub fn claimed_at(self) -> Option<OffsetDateTime> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        let nanos = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
    }
}

macro_rules! text_id {
    ($type:ty, $field:tt) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.$field.fmt(f)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.$field
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
text_id!(CouponId, 0);
text_id!(UserId, 0);

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// One user's request for one unit.
#[derive(Clone, Debug)]
pub struct Claim {
    pub coupon: CouponId,
    pub user: UserId,
    pub order: OrderId,
}

/// What the claim script answered. Refusals are values, not errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// A unit is the user's, and its order event is in the stream; `stock` is what was left just after.
    Accepted {
        stock: i64,
    },
    /// The user has one already: this order.
    Held {
        order: OrderId,
        stock: i64,
    },
    UnknownCoupon,
    Ended,
    Paused,
    NotStarted {
        starts_at_ms: i64,
        now_ms: i64,
    },
    SoldOut,
}

/// A coupon as its owner defined it; `version` grows by one with every edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    pub id: CouponId,
    pub title: String,
    pub total: i64,
    pub starts_at: Option<OffsetDateTime>,
    pub ends_at: Option<OffsetDateTime>,
    pub paused: bool,
    pub per_user_limit: i16,
    pub reserve_seconds: Option<i32>,
    pub unlisted: bool,
    pub version: i64,
}

/// The first that applies, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CouponState {
    Ended,
    Paused,
    Scheduled,
    SoldOut,
    Open,
}

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
    /// Its unit goes back, or has gone.
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
}

/// A coupon as Redis had it at `now_ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponSnapshot {
    pub id: CouponId,
    pub title: String,
    pub total: i64,
    /// Units left; never below zero here.
    pub stock: i64,
    pub starts_at_ms: Option<i64>,
    pub ends_at_ms: Option<i64>,
    pub paused: bool,
    pub per_user_limit: i64,
    pub reserve_seconds: Option<i64>,
    pub unlisted: bool,
    pub version: i64,
    /// Redis's clock, ms since 1970.
    pub now_ms: i64,
}

impl From<CouponSnapshot> for Definition {
    fn from(snapshot: CouponSnapshot) -> Self {
        let time = |ms: i64| OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok();
        Self {
            id: snapshot.id,
            title: snapshot.title,
            total: snapshot.total,
            starts_at: snapshot.starts_at_ms.and_then(time),
            ends_at: snapshot.ends_at_ms.and_then(time),
            paused: snapshot.paused,
            per_user_limit: i16::try_from(snapshot.per_user_limit).unwrap_or(1),
            reserve_seconds: snapshot.reserve_seconds.and_then(|seconds| i32::try_from(seconds).ok()),
            unlisted: snapshot.unlisted,
            version: snapshot.version.max(1),
        }
    }
}

impl CouponSnapshot {
    #[must_use]
    pub fn state(&self) -> CouponState {
        if self.ends_at_ms.is_some_and(|end| self.now_ms >= end) {
            CouponState::Ended
        } else if self.paused {
            CouponState::Paused
        } else if self.starts_at_ms.is_some_and(|start| self.now_ms < start) {
            CouponState::Scheduled
        } else if self.stock <= 0 {
            CouponState::SoldOut
        } else {
            CouponState::Open
        }
    }
}

/// An entry of the order stream that can be read: an accepted claim on its way to Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderEvent {
    pub order: OrderId,
    pub coupon: CouponId,
    pub user: UserId,
}

/// Why an entry is no order event, and the order id if at least that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableEvent {
    pub reason: String,
    pub order: Option<OrderId>,
}

impl OrderEvent {
    /// Reads an entry's fields, name and value by turns.
    ///
    /// # Errors
    /// When a field is missing, doubled in meaning, no UTF-8 or no id of its kind.
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
