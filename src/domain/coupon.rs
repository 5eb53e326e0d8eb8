//! A coupon: its definition, and its state at one moment.

use std::hash::{Hash, Hasher};

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{ClaimDurability, CouponId, Definition};

/// A coupon's state: the first of these that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CouponState {
    Ended,
    Paused,
    Scheduled,
    SoldOut,
    Open,
}

/// A coupon as Redis had it at `now_ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CouponSnapshot {
    pub id: CouponId,
    pub title: String,
    /// The units of all shares.
    pub total: i64,
    /// Units left, of the shares that were read, at least 0. Redis may have less than 0 for a moment.
    pub stock: i64,
    pub starts_at_ms: Option<i64>,
    pub ends_at_ms: Option<i64>,
    pub paused: bool,
    pub per_user_limit: i64,
    pub reserve_seconds: Option<i64>,
    pub durability: ClaimDurability,
    pub waitlist: bool,
    /// Users in the waiting list.
    pub waiting: i64,
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
            durability: snapshot.durability,
            waitlist: snapshot.waitlist,
            unlisted: snapshot.unlisted,
            version: snapshot.version.max(1),
            spread: None,
        }
    }
}

impl CouponSnapshot {
    /// Hashes what clients see of the coupon, without the time: another hash means that there is something to show.
    pub fn hash_shown(&self, hasher: &mut impl Hasher) {
        let Self { id, version, stock, waiting, .. } = self;
        (id.as_str(), version, stock, waiting, self.state() as u8).hash(hasher);
    }

    /// The coupon as a whole, from two of its shares.
    #[must_use]
    pub fn merge(one: &Self, other: &Self) -> Self {
        Self {
            stock: one.stock + other.stock,
            version: one.version + other.version,
            now_ms: one.now_ms.max(other.now_ms),
            ..one.clone()
        }
    }

    #[must_use]
    pub fn state(&self) -> CouponState {
        if self.ends_at_ms.is_some_and(|end| self.now_ms >= end) {
            CouponState::Ended
        } else if self.paused {
            CouponState::Paused
        } else if self.starts_at_ms.is_some_and(|start| self.now_ms < start) {
            CouponState::Scheduled
        } else if self.stock <= 0 || self.waiting > 0 {
            CouponState::SoldOut
        } else {
            CouponState::Open
        }
    }
}

/// A field of a definition on which the two stores do not agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldDifference {
    pub field: &'static str,
    pub postgres: String,
    /// `None` if Redis has no such field.
    #[schema(required)]
    pub redis: Option<String>,
}
