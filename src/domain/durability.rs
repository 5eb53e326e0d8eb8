//! Which store must have a claim before the claim is answered.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::AnswerAfter;

/// Which store must have a claim of the coupon before the claim is answered; each one promises more than those before
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClaimDurability {
    /// Redis, in its append-only file: the claim is as durable as Redis's `appendfsync` makes it.
    #[default]
    Redis,
    /// Redis, and a replica that may take over from it. The row of the order counts as well.
    Replica,
    /// Postgres, as the row of the order.
    Postgres,
}

impl From<AnswerAfter> for ClaimDurability {
    fn from(least: AnswerAfter) -> Self {
        match least {
            AnswerAfter::Redis => Self::Redis,
            AnswerAfter::Replica => Self::Replica,
            AnswerAfter::Postgres => Self::Postgres,
        }
    }
}

/// The text is none of `redis`, `replica` and `postgres`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("durability is redis, replica or postgres")]
pub struct InvalidDurability;

impl ClaimDurability {
    /// The word in the API, in Redis and in column `coupons.durability`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Replica => "replica",
            Self::Postgres => "postgres",
        }
    }
}

impl FromStr for ClaimDurability {
    type Err = InvalidDurability;

    fn from_str(word: &str) -> Result<Self, InvalidDurability> {
        [Self::Redis, Self::Replica, Self::Postgres]
            .into_iter()
            .find(|known| known.as_str() == word)
            .ok_or(InvalidDurability)
    }
}
