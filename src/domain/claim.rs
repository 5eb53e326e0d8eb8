//! A claim and its outcome.

use super::{CouponId, IdempotencyKey, OrderId, UserId};

/// One user's request for one unit.
#[derive(Clone, Debug)]
pub struct Claim {
    pub coupon: CouponId,
    pub user: UserId,
    pub order: OrderId,
    /// Used only where a user may hold several units of the coupon.
    pub key: Option<IdempotencyKey>,
}

/// The claim script's answer. A refusal is a value, not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The user has got a unit, and its order event is in the stream; `stock` is the stock just after this claim.
    Accepted {
        stock: i64,
    },
    /// The user has the claimed unit already, by an earlier claim with the same key; where a user may hold only one unit,
    /// by any earlier claim.
    Held {
        order: OrderId,
        stock: i64,
    },
    Refused(Refusal),
}

/// Why a claim was refused: the first of these reasons that applies. Times are ms since 1970 by Redis's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A user may hold several units of the coupon, and the claim has no Idempotency-Key. This one comes also before the
    /// outcome `Held`.
    KeyRequired,
    UnknownCoupon,
    Ended,
    Paused,
    NotStarted {
        starts_at_ms: i64,
        now_ms: i64,
    },
    /// The user holds as many units as a user may hold.
    LimitReached,
    SoldOut,
}
