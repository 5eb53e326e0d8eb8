//! A coupon as every client may see it, in answers and in event streams.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{ClaimDurability, CouponId, CouponSnapshot, CouponState, rfc3339};

#[derive(Serialize, ToSchema)]
#[schema(as = Coupon)]
pub struct CouponView {
    id: CouponId,
    title: String,
    /// Units for sale, with those that are held.
    total: i64,
    /// Units left.
    #[schema(minimum = 0)]
    stock: i64,
    state: CouponState,
    #[schema(required, format = DateTime)]
    starts_at: Option<String>,
    #[schema(required, format = DateTime)]
    ends_at: Option<String>,
    /// Units that one user may hold. Above 1, each claim needs an `Idempotency-Key`.
    per_user_limit: i64,
    /// The time to pay; null if orders are confirmed at once.
    #[schema(required)]
    reserve_seconds: Option<i64>,
    durability: ClaimDurability,
    /// Whether users may wait for units that come back.
    waitlist: bool,
    /// Users in line. Only of a coupon with a waiting list.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<i64>,
    /// Redis's clock, which decides when the sale starts and ends.
    #[schema(format = DateTime)]
    server_time: String,
}

impl From<&CouponSnapshot> for CouponView {
    fn from(snapshot: &CouponSnapshot) -> Self {
        Self {
            id: snapshot.id.clone(),
            title: snapshot.title.clone(),
            total: snapshot.total,
            stock: snapshot.stock,
            state: snapshot.state(),
            starts_at: snapshot.starts_at_ms.map(rfc3339),
            ends_at: snapshot.ends_at_ms.map(rfc3339),
            per_user_limit: snapshot.per_user_limit,
            reserve_seconds: snapshot.reserve_seconds,
            durability: snapshot.durability,
            waitlist: snapshot.waitlist,
            waiting: snapshot.waitlist.then_some(snapshot.waiting),
            server_time: rfc3339(snapshot.now_ms),
        }
    }
}
