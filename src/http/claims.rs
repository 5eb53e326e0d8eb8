//! The claim and what became of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::answer::{List, json};
use super::auth::Caller;
use super::prefer::preferred_wait;
use super::problem::{Code, Problem};
use super::request::{Request, segment};
use super::{Api, repeats, snapshots};
use crate::config;
use crate::model::{Claim, ClaimOutcome, CouponId, InvalidId, Order, OrderId, OrderStatus, UserId};
use crate::postgres::{dead_letters, orders};
use crate::redis::info;

type Answer = Result<Response<Bytes>, Problem>;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How long the admin waits for an order that may be on its way.
const ON_ITS_WAY_TIMEOUT: Duration = Duration::from_secs(2);

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
    #[serde(skip_serializing_if = "Option::is_none")]
    stock: Option<i64>,
    /// The order of the claim that a replay of this rejected one made.
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

/// Makes the claim; answers its order beside the response.
pub async fn make_claim(
    api: &Api,
    coupon: CouponId,
    user: UserId,
    headers: &HeaderMap,
) -> Result<(OrderId, Response<Bytes>), Problem> {
    check_idempotency_key(headers)?;
    let patience = preferred_wait(headers);
    let order = OrderId::mint();
    // Before the claim is made, or the announcement may come first.
    let recorded = repeats::ask(api, order, patience);
    let claim = Claim { coupon: coupon.clone(), user: user.clone(), order };
    let (outcome, row) = repeats::claim(api, claim).await?;
    match outcome {
        ClaimOutcome::Accepted { stock } => {
            let row = repeats::wait(recorded, patience).await;
            let status = if row.is_some() { StatusCode::CREATED } else { StatusCode::ACCEPTED };
            let answer = order_answer(status, row.unwrap_or_else(|| on_its_way(order, coupon, user)), stock);
            answer.map(|answer| (order, answer))
        }
        ClaimOutcome::Held { order, stock } => {
            let row = match row {
                None => repeats::wait(repeats::ask(api, order, patience), patience).await,
                row => row,
            };
            if row.as_ref().is_some_and(|row| row.status == OrderStatus::Rejected) {
                return Err(rejected(order));
            }
            let row = row.unwrap_or_else(|| on_its_way(order, coupon, user));
            order_answer(StatusCode::OK, row, stock).map(|answer| (order, answer))
        }
        refusal => Err(refused(&coupon, &refusal)),
    }
}

fn order_answer(status: StatusCode, order: Order, stock: i64) -> Answer {
    if order.status == OrderStatus::Rejected && status == StatusCode::CREATED {
        return Err(rejected(order.id));
    }
    let location = format!("/v1/coupons/{}/claims/{}", order.coupon, order.id);
    let mut response = json(status, &OrderView { stock: Some(stock), ..order.into() });
    if let Ok(location) = HeaderValue::from_maybe_shared(Bytes::from(location)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn refused(coupon: &CouponId, outcome: &ClaimOutcome) -> Problem {
    match outcome {
        ClaimOutcome::UnknownCoupon => unknown_coupon(coupon),
        ClaimOutcome::Ended => Problem::new(Code::Ended, format!("coupon {coupon} has ended")),
        ClaimOutcome::Paused => {
            Problem::new(Code::Paused, format!("coupon {coupon} is paused; try again later"))
        }
        ClaimOutcome::NotStarted { starts_at_ms, now_ms } => {
            let (starts_at, server_time) = (snapshots::rfc3339(*starts_at_ms), snapshots::rfc3339(*now_ms));
            Problem::new(Code::NotStarted, format!("coupon {coupon} opens at {starts_at}"))
                .with("starts_at", starts_at)
                .with("server_time", server_time)
        }
        ClaimOutcome::SoldOut => Problem::new(Code::SoldOut, format!("coupon {coupon} is sold out")),
        ClaimOutcome::Accepted { .. } | ClaimOutcome::Held { .. } => {
            Problem::new(Code::Internal, "an accepted claim was taken for a refused one")
        }
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
    let session = api.session()?;
    let Some(order) = info::held_by(&session.redis, &coupon, &user).await? else {
        if api.snapshots.get(&coupon).await?.is_none() {
            return Err(unknown_coupon(&coupon));
        }
        return Ok(json(StatusCode::OK, &List::<OrderView>::whole(Vec::new())));
    };
    let row = repeats::status(&api, order, Duration::ZERO).await;
    let order = row.unwrap_or_else(|| on_its_way(order, coupon, user));
    let live = [OrderStatus::Accepted, OrderStatus::Reserved, OrderStatus::Confirmed].contains(&order.status);
    let items: Vec<OrderView> = live.then(|| order.into()).into_iter().collect();
    Ok(json(StatusCode::OK, &List::whole(items)))
}

/// `GET /v1/coupons/{coupon}/claims/{order}`: Postgres first, the claims hash second, the direction in
/// which a claim moves; once more Postgres, for it may have moved between the two. Without Postgres there is
/// no answer: whether the order is still on its way is then not known, and a status never goes back.
pub async fn status(api: Arc<Api>, coupon: &str, order: &str, request: Request) -> Answer {
    let caller = api.auth.caller(&request.headers)?;
    let coupon = coupon_id(coupon)?;
    let order = order_id(order)?;
    let may_see = |row: &Order| row.coupon == coupon && may_see(&caller, &row.user);

    if let Some(row) = orders::get(&api.postgres.pool, order).await? {
        if !may_see(&row) {
            return Err(no_order());
        }
        let replaced_by = match row.status {
            OrderStatus::Rejected => dead_letters::replacement(&api.postgres.pool, order).await?,
            _ => None,
        };
        return Ok(json(StatusCode::OK, &OrderView { replaced_by, ..row.into() }));
    }
    if let Caller::User(user) = &caller {
        let session = api.session()?;
        if info::held_by(&session.redis, &coupon, user).await? == Some(order) {
            return Ok(json(StatusCode::OK, &OrderView::from(on_its_way(order, coupon, user.clone()))));
        }
    }
    // Whoever holds it is not known here; what is on its way is recorded within moments.
    let patience =
        if caller == Caller::Admin && is_recent(order) { ON_ITS_WAY_TIMEOUT } else { Duration::ZERO };
    match repeats::status(&api, order, patience).await {
        Some(row) if may_see(&row) => Ok(json(StatusCode::OK, &OrderView::from(row))),
        _ => Err(no_order()),
    }
}

fn is_recent(order: OrderId) -> bool {
    order.claimed_at().is_some_and(|at| OffsetDateTime::now_utc() - at < ON_ITS_WAY_TIMEOUT * 30)
}

fn may_see(caller: &Caller, owner: &UserId) -> bool {
    match caller {
        Caller::Admin => true,
        Caller::User(user) => user == owner,
    }
}

pub fn on_its_way(order: OrderId, coupon: CouponId, user: UserId) -> Order {
    Order {
        id: order,
        coupon,
        user,
        status: OrderStatus::Accepted,
        claimed_at: order.claimed_at().unwrap_or(OffsetDateTime::UNIX_EPOCH),
        recorded_at: None,
    }
}

pub fn coupon_id(text: &str) -> Result<CouponId, Problem> {
    segment(text)?.parse().map_err(|error: InvalidId| Problem::bad_request(error.to_string()))
}

fn order_id(text: &str) -> Result<OrderId, Problem> {
    segment(text)?.parse().map_err(|error: InvalidId| Problem::bad_request(error.to_string()))
}

pub fn unknown_coupon(coupon: &CouponId) -> Problem {
    Problem::new(Code::UnknownCoupon, format!("there is no coupon {coupon}"))
}

fn no_order() -> Problem {
    Problem::new(Code::NotFound, "there is no such order of yours")
}

fn check_idempotency_key(headers: &HeaderMap) -> Result<(), Problem> {
    let most = config::IDEMPOTENCY_KEY_MAX_BYTES;
    let mut keys = headers.get_all(&IDEMPOTENCY_KEY).iter();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(()),
        (Some(key), None)
            if (1..=most).contains(&key.len()) && key.as_bytes().iter().all(u8::is_ascii_graphic) =>
        {
            Ok(())
        }
        _ => Err(Problem::bad_request(format!(
            "Idempotency-Key is 1 to {most} visible ASCII characters, once"
        ))),
    }
}
