//! A claim and its outcome.

use super::{CouponId, OrderId, UserId};
use crate::config;

/// Whether a text is an `Idempotency-Key`: 1 to `IDEMPOTENCY_KEY_MAX_BYTES` visible ASCII characters.
#[must_use]
pub fn is_idempotency_key(text: &[u8]) -> bool {
    (1..=config::IDEMPOTENCY_KEY_MAX_BYTES).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

/// One user's request for one unit.
#[derive(Clone, Debug)]
pub struct Claim {
    pub coupon: CouponId,
    pub user: UserId,
    pub order: OrderId,
}

/// The claim script's answer. A refusal is a value, not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The user has got a unit, and its order event is in the stream; `stock` is the stock just after this claim.
    Accepted {
        stock: i64,
    },
    /// The user has had a unit before this claim: this order.
    Held {
        order: OrderId,
        stock: i64,
    },
    Refused(Refusal),
}

/// Why a claim was refused: the first of these reasons that applies. Times are ms since 1970 by Redis's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    UnknownCoupon,
    Ended,
    Paused,
    NotStarted { starts_at_ms: i64, now_ms: i64 },
    SoldOut,
}
