//! A claim and its outcome.

use super::{CouponId, IdempotencyKey, OrderId, UserId};

/// One user's request for one unit.
#[derive(Clone, Debug)]
pub struct Claim {
    pub coupon: CouponId,
    pub user: UserId,
    pub order: OrderId,
    /// The script ignores the key if a user may hold only one unit of the coupon.
    pub key: Option<IdempotencyKey>,
}

/// The claim script's answer. A refusal is a value, not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The user has got a unit, and its order event is in the stream; `stock` is the stock just after this claim.
    Accepted {
        stock: i64,
    },
    /// An earlier claim got the unit: a claim of the user with the same key, or any claim of the user if a user may
    /// hold only one unit.
    Held {
        order: OrderId,
        stock: i64,
    },
    Refused(Refusal),
}

/// Why a claim was refused: the first of these reasons that applies. Times are ms since 1970 by Redis's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A user may hold several units of the coupon, and the claim has no Idempotency-Key. The script checks this before
    /// it looks for a held unit.
    KeyRequired,
    UnknownCoupon,
    Ended,
    Paused,
    NotStarted {
        starts_at_ms: i64,
        now_ms: i64,
    },
    /// The user already holds `per_user_limit` units of the coupon.
    LimitReached,
    SoldOut,
}
