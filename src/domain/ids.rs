//! Ids that are valid by construction.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::config;

/// `[A-Za-z0-9][A-Za-z0-9_-]{0,62}`
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct CouponId(Arc<str>);

/// 1 to 128 bytes of UTF-8 without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct UserId(Arc<str>);

/// A UUIDv7, minted before the script runs: a script that is sent twice then claims once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OrderId(pub Uuid);

/// A client's name for one claim (`Idempotency-Key`): 1 to `IDEMPOTENCY_KEY_MAX_BYTES` visible ASCII characters. If a
/// user may hold several units, a claim with the same key is a repeat, and a claim with another key is a further claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

/// Why a text is not an id; the sentence is used as an error's `detail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    #[error("a coupon id is 1 to 63 letters, digits, `_` or `-`, and starts with a letter or digit")]
    Coupon,
    #[error("a user id is 1 to 128 bytes of UTF-8 without control characters")]
    User,
    #[error("an order id is a UUID")]
    Order,
    #[error("Idempotency-Key is 1 to {} visible ASCII characters", config::IDEMPOTENCY_KEY_MAX_BYTES)]
    IdempotencyKey,
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

impl IdempotencyKey {
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

impl FromStr for IdempotencyKey {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let valid = (1..=config::IDEMPOTENCY_KEY_MAX_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        if valid { Ok(Self(text.into())) } else { Err(InvalidId::IdempotencyKey) }
    }
}

impl FromStr for OrderId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // Only the hyphenated form is accepted: the text is a value in Redis, and equal ids must have equal texts.
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

    /// No order that was minted after this time has a lower id.
    #[must_use]
    pub fn first_at(time: SystemTime) -> Self {
        let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        Self(uuid::Builder::from_unix_timestamp_millis(ms, &[0; 10]).into_uuid())
    }

    /// The time inside the id; `None` if the id is not a UUIDv7.
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
text_id!(IdempotencyKey, 0);

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}
