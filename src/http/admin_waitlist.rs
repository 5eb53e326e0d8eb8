//! The line of a coupon as the admin sees it, and places that the admin takes and gives up for users.

use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::Api;
use super::answer::{List, json};
use super::claims::{OnBehalf, idempotency_key};
use super::problem::{Answer, Problem};
use super::request::{Page, Request, RowNumber, coupon_id, user_id};
use super::waitlist::{give_up_place, show_place, take_place};
use crate::domain::{OrderId, UserId};

#[derive(Serialize, ToSchema)]
#[schema(as = WaitingUser)]
pub struct PlaceView {
    place: i64,
    user: UserId,
    /// The order that the user gets with a unit.
    #[schema(required)]
    order: Option<OrderId>,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    joined_at: Option<OffsetDateTime>,
}

/// `GET /v1/admin/coupons/{coupon}/waitlist`, the first in line first
pub async fn list(api: Arc<Api>, coupon: &str, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let coupon = coupon_id(coupon)?;
    let page: Page<RowNumber> = Page::read(&request.query_fields())?;
    let partition = api.partitions.of(&coupon).await?;
    let mut places = partition.waitlist.page(&coupon, page.after.map(|row| row.0), page.rows()).await?;
    if places.is_empty() && partition.snapshots.get(&coupon).await?.is_none() {
        return Err(Problem::unknown_coupon(&coupon));
    }
    let next = page.cut(&mut places, |place| place.number);
    let items = places.into_iter().map(|place| PlaceView {
        place: place.place,
        user: place.user,
        order: place.order,
        joined_at: place.order.and_then(OrderId::claimed_at),
    });
    Ok(json(StatusCode::OK, &List::page(items.collect(), next)))
}

/// `POST /v1/admin/coupons/{coupon}/waitlist`
pub async fn join(api: Arc<Api>, coupon: &str, mut request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let coupon = coupon_id(coupon)?;
    let OnBehalf { user } = request.json().await?;
    let key = idempotency_key(&request.headers)?;
    take_place(&api, &coupon, &user, key).await
}

/// `GET /v1/admin/coupons/{coupon}/waitlist/{user}`
pub async fn show(api: Arc<Api>, coupon: &str, user: &str, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    show_place(&api, &coupon_id(coupon)?, &user_id(user)?).await
}

/// `DELETE /v1/admin/coupons/{coupon}/waitlist/{user}`
pub async fn leave(api: Arc<Api>, coupon: &str, user: &str, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    give_up_place(&api, &coupon_id(coupon)?, &user_id(user)?).await
}
