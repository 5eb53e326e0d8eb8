//! The admin's receipt of a coupon: where each of its units is, and the list of its winners.

use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::answer::{List, json};
use super::problem::{Answer, Code, Problem};
use super::request::{Page, Request, coupon_id, query_field};
use crate::domain::{CouponId, OrderId, UserId, rfc3339};
use crate::postgres::receipt::{self, Winner};
use crate::receipt::{Exception, Receipt};

#[derive(Serialize, ToSchema)]
#[schema(as = Receipt)]
pub struct ReceiptView {
    coupon: CouponId,
    title: String,
    total: i64,
    stock: i64,
    /// Part of `stock`: units that are on their way back.
    returning: i64,
    accepted: i64,
    reserved: i64,
    confirmed: i64,
    returned: i64,
    rejected: i64,
    /// Whether `total` is `stock`, `accepted`, `reserved` and `confirmed` together.
    adds_up: bool,
    /// By how many units it is not.
    off_by: i64,
    #[schema(format = DateTime)]
    server_time: String,
    exceptions: Vec<ExceptionView>,
    /// Also those that are not named.
    exceptions_found: usize,
    /// Whether the orders were compared, and not only the sums.
    compared: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ReceiptException)]
pub struct ExceptionView {
    kind: &'static str,
    #[schema(required)]
    user: Option<UserId>,
    #[schema(required)]
    order: Option<OrderId>,
    why: String,
}

impl From<Exception> for ExceptionView {
    fn from(exception: Exception) -> Self {
        let Exception { kind, user, order, why } = exception;
        Self { kind, user, order, why }
    }
}

impl From<Receipt> for ReceiptView {
    fn from(receipt: Receipt) -> Self {
        let (adds_up, counts) = (receipt.adds_up(), receipt.counts);
        Self {
            coupon: receipt.coupon,
            title: receipt.title,
            total: counts.total,
            stock: counts.stock,
            returning: counts.returning,
            accepted: counts.accepted,
            reserved: counts.reserved,
            confirmed: counts.confirmed,
            returned: counts.returned,
            rejected: counts.rejected,
            adds_up,
            off_by: receipt.off_by,
            server_time: rfc3339(counts.now_ms),
            exceptions: receipt.exceptions.into_iter().map(ExceptionView::from).collect(),
            exceptions_found: receipt.exceptions_found,
            compared: receipt.is_compared,
        }
    }
}

/// `GET /v1/admin/coupons/{coupon}/receipt`. Compares the orders, which takes seconds for a hundred thousand of them;
/// `?compare=false` checks only the sums.
pub async fn show(api: Arc<Api>, coupon: &str, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let id = coupon_id(coupon)?;
    let compare = query_field(&request.query_fields(), "compare")?.unwrap_or(true);
    let partitions = api.partitions.clone();
    // To its end even if the client goes away.
    let reading = tokio::spawn(async move { partitions.receipt(&id, compare).await });
    let receipt = reading.await.map_err(|error| Problem::new(Code::Internal, error.to_string()))??;
    Ok(json(StatusCode::OK, &ReceiptView::from(receipt)))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Winner)]
pub struct WinnerView {
    order: Uuid,
    user: String,
    slot: i16,
    status: String,
    #[serde(with = "time::serde::rfc3339")]
    claimed_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    recorded_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    reserved_until: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    confirmed_at: Option<OffsetDateTime>,
}

impl From<Winner> for WinnerView {
    fn from(winner: Winner) -> Self {
        let Winner { id, user_id, slot, status, claimed_at, recorded_at, reserved_until, confirmed_at } =
            winner;
        Self { order: id, user: user_id, slot, status, claimed_at, recorded_at, reserved_until, confirmed_at }
    }
}

/// `GET /v1/admin/coupons/{coupon}/winners`: the recorded orders that hold a unit, oldest first
pub async fn winners(api: Arc<Api>, coupon: &str, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let id = coupon_id(coupon)?;
    let page: Page<OrderId> = Page::read(&request.query_fields())?;
    let mut winners = receipt::winners(&api.postgres.pool, &id, page.after, page.rows()).await?;
    let next = page.cut(&mut winners, |winner| winner.id);
    Ok(json(StatusCode::OK, &List::page(winners.into_iter().map(WinnerView::from).collect(), next)))
}
