//! A coupon as every client may see it, in answers and in event streams.

use serde::Serialize;

use crate::domain::{ClaimDurability, CouponId, CouponSnapshot, CouponState, rfc3339};

#[derive(Serialize)]
pub struct CouponView {
    id: CouponId,
    title: String,
    total: i64,
    stock: i64,
    state: CouponState,
    starts_at: Option<String>,
    ends_at: Option<String>,
    per_user_limit: i64,
    reserve_seconds: Option<i64>,
    durability: ClaimDurability,
    waitlist: bool,
    /// Only of a coupon with a waiting list.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<i64>,
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
