//! Makes claims, and shows their orders.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::InvalidHeaderValue;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::Api;
use super::answer::{Content, List, json};
use super::prefer::preferred_wait;
use super::problem::{Answer, Code, Problem};
use super::request::{Request, coupon_id, order_id};
use super::shapes;
use crate::claims::claim::Claimed;
use crate::domain::{
    CouponId, IdempotencyKey, InvalidId, Order, OrderId, OrderStatus, Refusal, UserId, rfc3339,
};
use crate::metrics;
use crate::orders::lookup::FoundOrder;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// An order as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Order)]
pub struct OrderView {
    order: OrderId,
    coupon: CouponId,
    user: UserId,
    status: OrderStatus,
    /// For an order that came of a waiting list: when its user joined.
    #[serde(with = "time::serde::rfc3339")]
    claimed_at: OffsetDateTime,
    /// When the order was written to Postgres.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    recorded_at: Option<OffsetDateTime>,
    /// Until when the order can be confirmed, by Postgres's clock.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    reserved_until: Option<OffsetDateTime>,
    /// When a reserved order was paid.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    confirmed_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    ended_at: Option<OffsetDateTime>,
    /// Why the order was rejected or revoked.
    #[schema(required)]
    reason: Option<String>,
    /// In answers to claims: units left after the claim.
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
            confirmed_at: order.confirmed_at,
            ended_at: order.ended_at,
            reason: order.reason,
            stock: None,
            replaced_by: None,
        }
    }
}

impl From<FoundOrder> for OrderView {
    fn from(found: FoundOrder) -> Self {
        Self { replaced_by: found.replaced_by, ..found.order.into() }
    }
}

/// `POST /v1/coupons/{coupon}/claims`
pub async fn claim(api: &Api, coupon: &str, mut request: Request) -> Answer {
    let user = api.auth.user(&request.headers)?;
    let coupon = coupon_id(coupon)?;
    request.optional_object().await?;
    let key = idempotency_key(&request.headers)?;
    make_claim(api, coupon, user, key, &request.headers).await.map(|(_, response)| response)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ClaimForUser)]
pub struct OnBehalf {
    #[schema(schema_with = shapes::user)]
    pub user: UserId,
}

/// `POST /v1/admin/coupons/{coupon}/claims`
pub async fn claim_on_behalf(api: &Api, coupon: &str, mut request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let coupon = coupon_id(coupon)?;
    let OnBehalf { user } = request.json().await?;
    let key = idempotency_key(&request.headers)?;
    make_claim(api, coupon, user, key, &request.headers).await.map(|(_, response)| response)
}

/// Makes the claim; returns its order with the response. The time that it takes is measured.
pub async fn make_claim(
    api: &Api,
    coupon: CouponId,
    user: UserId,
    key: Option<IdempotencyKey>,
    headers: &HeaderMap,
) -> Result<(OrderId, Response<Content>), Problem> {
    let begun = Instant::now();
    let made = answer_claim(api, coupon, user, key, headers).await;
    let status = made.as_ref().map_or_else(|problem| problem.code.status(), |(_, answer)| answer.status());
    let answer = match status {
        StatusCode::ACCEPTED => "accepted",
        StatusCode::CREATED => "recorded",
        StatusCode::OK => "held",
        status if status.is_server_error() => "unavailable",
        _ => "refused",
    };
    metrics::CLAIM_DURATION.observe_since(answer, begun);
    made
}

async fn answer_claim(
    api: &Api,
    coupon: CouponId,
    user: UserId,
    key: Option<IdempotencyKey>,
    headers: &HeaderMap,
) -> Result<(OrderId, Response<Content>), Problem> {
    let claimed = api.partitions.claim(&coupon, &user, key, preferred_wait(headers)).await?;
    let (status, order, stock) = match claimed {
        Claimed::Accepted { order, stock } if order.status == OrderStatus::Accepted => {
            (StatusCode::ACCEPTED, order, stock)
        }
        Claimed::Accepted { order, stock } => (StatusCode::CREATED, order, stock),
        Claimed::Held { order, stock } => (StatusCode::OK, order, stock),
        Claimed::NotRecorded(order) => {
            return Err(not_safe_yet(Code::NotRecordedYet, "your order is not recorded yet", &coupon, order));
        }
        Claimed::NotReplicated(order) => {
            let what = "no replica of Redis is known to have your order";
            return Err(not_safe_yet(Code::NotReplicatedYet, what, &coupon, order));
        }
        Claimed::Refused(refusal) => return Err(refused(api, &coupon, refusal)),
    };
    if order.status == OrderStatus::Rejected {
        return Err(rejected(order.id));
    }
    Ok((order.id, order_answer(status, order, stock)))
}

fn order_answer(status: StatusCode, order: Order, stock: i64) -> Response<Content> {
    let location = location(&order.coupon, order.id);
    let mut response = json(status, &OrderView { stock: Some(stock), ..order.into() });
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn refused(api: &Api, coupon: &CouponId, refusal: Refusal) -> Problem {
    match refusal {
        Refusal::KeyRequired => key_required(coupon),
        Refusal::UnknownCoupon => Problem::unknown_coupon(coupon),
        Refusal::Ended => ended(coupon),
        Refusal::Paused => Problem::new(Code::Paused, format!("coupon {coupon} is paused; try again later")),
        Refusal::NotStarted { starts_at_ms, now_ms } => {
            let (starts_at, server_time) = (rfc3339(starts_at_ms), rfc3339(now_ms));
            Problem::new(Code::NotStarted, format!("coupon {coupon} opens at {starts_at}"))
                .with("starts_at", starts_at)
                .with("server_time", server_time)
        }
        Refusal::LimitReached => limit_reached(coupon),
        Refusal::SoldOut if api.catalogue.has_waitlist(coupon) => {
            let detail = format!(
                "coupon {coupon} is sold out: join its waiting list, POST /v1/coupons/{coupon}/waitlist"
            );
            Problem::new(Code::SoldOut, detail)
        }
        Refusal::SoldOut => Problem::new(Code::SoldOut, format!("coupon {coupon} is sold out")),
    }
}

pub fn key_required(coupon: &CouponId) -> Problem {
    Problem::new(
        Code::IdempotencyKeyRequired,
        format!(
            "a user may hold several units of coupon {coupon}: send the header Idempotency-Key, a new key for each \
             further unit and the same one with each repeat"
        ),
    )
}

pub fn limit_reached(coupon: &CouponId) -> Problem {
    let detail = format!("you already hold as many units of coupon {coupon} as one user may hold");
    Problem::new(Code::LimitReached, detail)
}

pub fn ended(coupon: &CouponId) -> Problem {
    Problem::new(Code::Ended, format!("coupon {coupon} has ended"))
}

pub fn location(coupon: &CouponId, order: OrderId) -> Result<HeaderValue, InvalidHeaderValue> {
    HeaderValue::from_maybe_shared(Bytes::from(format!("/v1/coupons/{coupon}/claims/{order}")))
}

/// The claim is made, and does not have yet what its durability promises.
fn not_safe_yet(code: Code, what: &str, coupon: &CouponId, order: OrderId) -> Problem {
    let detail = format!("a unit is held for you, but {what}; send the claim again to get the same order");
    let problem = Problem::new(code, detail).with("order", order.to_string());
    match location(coupon, order) {
        Ok(location) => problem.with_header(header::LOCATION, location),
        Err(_) => problem,
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
    let partition = api.partitions.home(&coupon, &user).await?;
    let items: Vec<OrderView> =
        partition.claims.live(&coupon, &user).await?.into_iter().map(OrderView::from).collect();
    if items.is_empty() && partition.snapshots.get(&coupon).await?.is_none() {
        return Err(Problem::unknown_coupon(&coupon));
    }
    Ok(json(StatusCode::OK, &List::whole(items)))
}

/// `GET /v1/coupons/{coupon}/claims/{order}`
pub async fn status(api: Arc<Api>, coupon: &str, order: &str, request: Request) -> Answer {
    let caller = api.auth.caller(&request.headers)?;
    let coupon = coupon_id(coupon)?;
    let order = order_id(order)?;
    let partition = api.partitions.of_claim(&coupon, order, caller.user()).await?;
    let found = partition.orders.find(&coupon, order, caller.user()).await?;
    Ok(json(StatusCode::OK, &OrderView::from(found)))
}

pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut keys = headers.get_all(&IDEMPOTENCY_KEY).iter();
    let key = match (keys.next(), keys.next()) {
        (None, _) => return Ok(None),
        (Some(key), None) => key.to_str().ok().and_then(|key| key.parse().ok()),
        _ => None,
    };
    key.map(Some).ok_or_else(|| Problem::bad_request(format!("{}, once", InvalidId::IdempotencyKey)))
}
