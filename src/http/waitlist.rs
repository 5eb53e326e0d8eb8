//! The waiting list of a sold-out coupon: joins, shows the place, leaves.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::answer::{Content, json};
use super::claims::{self, OrderView, idempotency_key};
use super::problem::{Answer, Code, Problem};
use super::request::{Request, coupon_id};
use crate::coupons::snapshots::Snapshots;
use crate::domain::{CouponId, IdempotencyKey, JoinRefusal, OrderId, UserId};
use crate::fence::StoreError;
use crate::waitlist::{Joined, Place, WaitState};

/// A place in line as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Place)]
pub struct PlaceView<'a> {
    coupon: &'a CouponId,
    user: &'a UserId,
    /// `waiting`.
    status: &'static str,
    /// The order that the user gets with a unit.
    order: OrderId,
    /// From 1, the next user to get a unit.
    place: i64,
    /// Users in line.
    waiting: i64,
}

/// `POST /v1/coupons/{coupon}/waitlist`
pub async fn join(api: &Api, coupon: &str, mut request: Request) -> Answer {
    let user = api.auth.user(&request.headers)?;
    let coupon = coupon_id(coupon)?;
    request.optional_object().await?;
    let key = idempotency_key(&request.headers)?;
    take_place(api, &coupon, &user, key).await
}

/// `GET /v1/coupons/{coupon}/waitlist`
pub async fn show(api: Arc<Api>, coupon: &str, request: Request) -> Answer {
    let user = api.auth.user(&request.headers)?;
    let coupon = coupon_id(coupon)?;
    show_place(&api, &coupon, &user).await
}

/// `DELETE /v1/coupons/{coupon}/waitlist`
pub async fn leave(api: Arc<Api>, coupon: &str, request: Request) -> Answer {
    let user = api.auth.user(&request.headers)?;
    let coupon = coupon_id(coupon)?;
    give_up_place(&api, &coupon, &user).await
}

/// Joins for the user.
pub async fn take_place(api: &Api, coupon: &CouponId, user: &UserId, key: Option<IdempotencyKey>) -> Answer {
    let partition = api.partitions.of(coupon).await?;
    match partition.waitlist.join(coupon, user, key).await? {
        Joined::New(place) => Ok(waiting(StatusCode::CREATED, coupon, user, place)),
        Joined::Already(state) => Ok(answer(coupon, user, state)),
        Joined::Refused(refusal) => Err(refused(api, &partition.snapshots, coupon, refusal).await),
    }
}

/// Where the user stands.
pub async fn show_place(api: &Api, coupon: &CouponId, user: &UserId) -> Answer {
    let partition = api.partitions.of(coupon).await?;
    match partition.waitlist.get(coupon, user).await? {
        Some(state) => Ok(answer(coupon, user, state)),
        None if partition.snapshots.get(coupon).await?.is_none() => Err(absent(api, coupon)),
        None => {
            let detail = format!("user {user} is not in the waiting list of coupon {coupon}");
            Err(Problem::new(Code::NotWaiting, detail))
        }
    }
}

/// Leaves for the user.
pub async fn give_up_place(api: &Api, coupon: &CouponId, user: &UserId) -> Answer {
    let partition = api.partitions.of(coupon).await?;
    if let Some(order) = partition.waitlist.leave(coupon, user).await? {
        let detail =
            format!("user {user} has got a unit already: while its order is reserved, it can be cancelled");
        return Err(Problem::new(Code::AlreadyServed, detail).with("order", order.id.to_string()));
    }
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn answer(coupon: &CouponId, user: &UserId, state: WaitState) -> Response<Content> {
    match state {
        WaitState::Waiting(place) => waiting(StatusCode::OK, coupon, user, place),
        WaitState::Served(order) => {
            let location = claims::location(coupon, order.id);
            let mut response = json(StatusCode::OK, &OrderView::from(order));
            if let Ok(location) = location {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
    }
}

fn waiting(status: StatusCode, coupon: &CouponId, user: &UserId, place: Place) -> Response<Content> {
    let Place { number, waiting, order } = place;
    json(status, &PlaceView { coupon, user, status: "waiting", order, place: number, waiting })
}

/// Redis has no such coupon: it is unknown, or Redis has just lost it.
fn absent(api: &Api, coupon: &CouponId) -> Problem {
    if api.catalogue.is_published(coupon) {
        return StoreError::Fenced.into();
    }
    Problem::unknown_coupon(coupon)
}

async fn refused(api: &Api, snapshots: &Snapshots, coupon: &CouponId, refusal: JoinRefusal) -> Problem {
    match refusal {
        JoinRefusal::NoWaitlist => match snapshots.get(coupon).await {
            Ok(Some(_)) => Problem::new(
                Code::NoWaitlist,
                format!("coupon {coupon} has no waiting list; try to claim it"),
            ),
            Ok(None) => absent(api, coupon),
            Err(error) => error.into(),
        },
        JoinRefusal::KeyRequired => claims::key_required(coupon),
        JoinRefusal::LimitReached => claims::limit_reached(coupon),
        JoinRefusal::Ended => claims::ended(coupon),
        JoinRefusal::NotSoldOut => {
            Problem::new(Code::NotSoldOut, format!("units of coupon {coupon} are left: claim one"))
        }
        JoinRefusal::Full => Problem::new(
            Code::WaitlistFull,
            format!("the waiting list of coupon {coupon} is full; try again later"),
        ),
    }
}
