//! A place in the waiting list of a sold-out coupon.

use super::{IdempotencyKey, OrderId, UserId};

/// A user in line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingUser {
    pub user: UserId,
    /// The order that the user gets with a unit. Each request to join has a new id, so that a place is served once.
    pub order: OrderId,
    /// The Idempotency-Key of that order. Only a coupon of which a user may hold several units needs it.
    pub key: Option<IdempotencyKey>,
}

/// Why a user may not join: the first of these reasons that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRefusal {
    /// The coupon has no waiting list, or does not exist.
    NoWaitlist,
    /// A user may hold several units of the coupon, and the request has no Idempotency-Key.
    KeyRequired,
    /// The user already holds `per_user_limit` units of the coupon.
    LimitReached,
    Ended,
    /// Units are left, so the user can claim one.
    NotSoldOut,
    /// The line is as long as it may be.
    Full,
}
