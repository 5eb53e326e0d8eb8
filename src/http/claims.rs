//! Makes claims, and shows their orders.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::Api;
use super::answer::{List, json};
use super::prefer::preferred_wait;
use super::problem::{Answer, Code, Problem};
use super::request::{Request, coupon_id, order_id};
use crate::claims::claim::Claimed;
use crate::config;
use crate::domain::{CouponId, Order, OrderId, OrderStatus, Refusal, UserId, is_idempotency_key, rfc3339};
use crate::orders::lookup::{FoundOrder, LiveOrder};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// An order as the API shows it.
#[derive(Serialize)]
pub struct OrderView {
    order: OrderId,
    coupon: CouponId,
    user: UserId,
    status: OrderStatus,
    #[serde(with = "time::serde::rfc3339")]
    claimed_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    recorded_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    reserved_until: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    ended_at: Option<OffsetDateTime>,
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stock: Option<i64>,
    /// For a rejected order that was replayed: the order of the new claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_by: Option<OrderId>,
}

impl From<Order> for OrderView {
    fn from(order: Order) -> Self {
        Self {
            order: order.id,
            coupon: order.coupon,
            user: order.user,
            status: order.status,
            claimed_at: order.claimed_at,
            recorded_at: order.recorded_at,
            reserved_until: order.reserved_until,
            ended_at: order.ended_at,
            reason: order.reason,
            stock: None,
            replaced_by: None,
        }
    }
}

/// `POST /v1/coupons/{coupon}/claims`
pub async fn claim(api: &Api, coupon: &str, mut request: Request) -> Answer {
    let user = api.auth.user(&request.headers)?;
    let coupon = coupon_id(coupon)?;
    request.optional_object().await?;
    make_claim(api, coupon, user, &request.headers).await.map(|(_, response)| response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OnBehalf {
    user: UserId,
}

/// `POST /v1/admin/coupons/{coupon}/claims`
pub async fn claim_on_behalf(api: &Api, coupon: &str, mut request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let coupon = coupon_id(coupon)?;
    let OnBehalf { user } = request.json().await?;
    make_claim(api, coupon, user, &request.headers).await.map(|(_, response)| response)
}

/// Makes the claim; returns its order with the response.
pub async fn make_claim(
    api: &Api,
    coupon: CouponId,
    user: UserId,
    headers: &HeaderMap,
) -> Result<(OrderId, Response<Bytes>), Problem> {
    check_idempotency_key(headers)?;
    let (status, order, stock) = match api.claims.claim(&coupon, &user, preferred_wait(headers)).await? {
        Claimed::Accepted { order, stock } if order.status == OrderStatus::Accepted => {
            (StatusCode::ACCEPTED, order, stock)
        }
        Claimed::Accepted { order, stock } => (StatusCode::CREATED, order, stock),
        Claimed::Held { order, stock } => (StatusCode::OK, order, stock),
        Claimed::Refused(refusal) => return Err(refused(&coupon, refusal)),
    };
    if order.status == OrderStatus::Rejected {
        return Err(rejected(order.id));
    }
    Ok((order.id, order_answer(status, order, stock)))
}

fn order_answer(status: StatusCode, order: Order, stock: i64) -> Response<Bytes> {
    let location = format!("/v1/coupons/{}/claims/{}", order.coupon, order.id);
    let mut response = json(status, &OrderView { stock: Some(stock), ..order.into() });
    if let Ok(location) = HeaderValue::from_maybe_shared(Bytes::from(location)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn refused(coupon: &CouponId, refusal: Refusal) -> Problem {
    match refusal {
        Refusal::UnknownCoupon => Problem::unknown_coupon(coupon),
        Refusal::Ended => Problem::new(Code::Ended, format!("coupon {coupon} has ended")),
        Refusal::Paused => Problem::new(Code::Paused, format!("coupon {coupon} is paused; try again later")),
        Refusal::NotStarted { starts_at_ms, now_ms } => {
            let (starts_at, server_time) = (rfc3339(starts_at_ms), rfc3339(now_ms));
            Problem::new(Code::NotStarted, format!("coupon {coupon} opens at {starts_at}"))
                .with("starts_at", starts_at)
                .with("server_time", server_time)
        }
        Refusal::SoldOut => Problem::new(Code::SoldOut, format!("coupon {coupon} is sold out")),
    }
}

fn rejected(order: OrderId) -> Problem {
    let detail = "the order could not be recorded; its unit went back to stock";
    Problem::new(Code::Rejected, detail).with("order", order.to_string())
}

/// `GET /v1/coupons/{coupon}/claims`
pub async fn held(api: Arc<Api>, coupon: &str, request: Request) -> Answer {
    let user = api.auth.user(&request.headers)?;
    let coupon = coupon_id(coupon)?;
    let items: Vec<OrderView> = match api.orders.live(&coupon, &user).await? {
        LiveOrder::Live(order) => vec![order.into()],
        LiveOrder::Ended => Vec::new(),
        LiveOrder::NotHeld if api.snapshots.get(&coupon).await?.is_some() => Vec::new(),
        LiveOrder::NotHeld => return Err(Problem::unknown_coupon(&coupon)),
    };
    Ok(json(StatusCode::OK, &List::whole(items)))
}

/// `GET /v1/coupons/{coupon}/claims/{order}`
pub async fn status(api: Arc<Api>, coupon: &str, order: &str, request: Request) -> Answer {
    let caller = api.auth.caller(&request.headers)?;
    let found = api.orders.find(&coupon_id(coupon)?, order_id(order)?, caller.user()).await?;
    let FoundOrder { order, replaced_by } = found.ok_or_else(no_order)?;
    Ok(json(StatusCode::OK, &OrderView { replaced_by, ..order.into() }))
}

fn no_order() -> Problem {
    Problem::new(Code::NotFound, "you have no such order")
}

fn check_idempotency_key(headers: &HeaderMap) -> Result<(), Problem> {
    let most = config::IDEMPOTENCY_KEY_MAX_BYTES;
    let mut keys = headers.get_all(&IDEMPOTENCY_KEY).iter();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(()),
        (Some(key), None) if is_idempotency_key(key.as_bytes()) => Ok(()),
        _ => Err(Problem::bad_request(format!(
            "Idempotency-Key is 1 to {most} visible ASCII characters, once"
        ))),
    }
}
