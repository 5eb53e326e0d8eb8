//! Which store must have a claim before the claim is answered.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which store must have a claim of the coupon before the claim is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClaimDurability {
    /// Redis, in its append-only file: the claim is as durable as Redis's `appendfsync` makes it.
    #[default]
    Redis,
    /// Postgres, as the row of the order.
    Postgres,
}

/// The text is neither `redis` nor `postgres`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("durability is redis or postgres")]
pub struct InvalidDurability;

impl ClaimDurability {
    /// The word in the API, in Redis and in column `coupons.durability`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

impl FromStr for ClaimDurability {
    type Err = InvalidDurability;

    fn from_str(word: &str) -> Result<Self, InvalidDurability> {
        [Self::Redis, Self::Postgres]
            .into_iter()
            .find(|known| known.as_str() == word)
            .ok_or(InvalidDurability)
    }
}
