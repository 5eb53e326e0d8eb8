//! The admin's coupons: create, read, list and edit.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::answer::{Content, List, json};
use super::body::{Rfc3339, Whole};
use super::problem::Answer;
use super::request::{Page, Request, coupon_id};
use super::shapes;
use crate::coupons::definitions::{AdminCoupon, Created, ExpectedVersion, Share};
use crate::coupons::view::CouponView;
use crate::domain::{ClaimDurability, CouponId, CouponPatch, FieldDifference, NewCoupon};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewCoupon)]
pub struct NewCouponBody {
    id: CouponId,
    #[schema(schema_with = shapes::total)]
    total: Whole,
    #[schema(schema_with = shapes::title)]
    title: Option<String>,
    #[schema(schema_with = shapes::starts_at)]
    starts_at: Option<Rfc3339>,
    #[schema(schema_with = shapes::ends_at)]
    ends_at: Option<Rfc3339>,
    #[schema(schema_with = shapes::per_user_limit)]
    per_user_limit: Option<Whole>,
    #[schema(schema_with = shapes::reserve_seconds)]
    reserve_seconds: Option<Whole>,
    /// What must have a claim when it is answered. `SECKILL_ANSWER_AFTER` is the least for every coupon, and the default if
    /// Redis makes an answered claim durable; else the default is `postgres`. It cannot be changed later.
    durability: Option<ClaimDurability>,
    /// Whether users may wait for units that come back. It cannot be changed later.
    waitlist: Option<bool>,
    /// Whether `GET /v1/coupons` leaves the coupon out.
    unlisted: Option<bool>,
    #[schema(schema_with = shapes::spread)]
    spread: Option<Whole>,
}

impl From<NewCouponBody> for NewCoupon {
    fn from(body: NewCouponBody) -> Self {
        Self {
            id: body.id,
            total: body.total.0,
            title: body.title,
            starts_at: body.starts_at.map(|time| time.0),
            ends_at: body.ends_at.map(|time| time.0),
            per_user_limit: body.per_user_limit.map(|limit| limit.0),
            reserve_seconds: body.reserve_seconds.map(|seconds| seconds.0),
            durability: body.durability,
            waitlist: body.waitlist.unwrap_or(false),
            unlisted: body.unlisted.unwrap_or(false),
            spread: body.spread.map(|spread| spread.0),
        }
    }
}

#[expect(clippy::option_option, reason = "a merge patch distinguishes absent from null")]
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CouponPatch)]
pub struct CouponPatchBody {
    #[serde(default, deserialize_with = "present")]
    #[schema(schema_with = shapes::title, required = false)]
    title: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(schema_with = shapes::total, required = false)]
    total: Option<Option<Whole>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(schema_with = shapes::starts_at, required = false)]
    starts_at: Option<Option<Rfc3339>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(schema_with = shapes::ends_at, required = false)]
    ends_at: Option<Option<Rfc3339>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(schema_with = shapes::paused, required = false)]
    paused: Option<Option<bool>>,
}

fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl From<CouponPatchBody> for CouponPatch {
    fn from(body: CouponPatchBody) -> Self {
        Self {
            title: body.title,
            total: body.total.map(|total| total.map(|total| total.0)),
            starts_at: body.starts_at.map(|time| time.map(|time| time.0)),
            ends_at: body.ends_at.map(|time| time.map(|time| time.0)),
            paused: body.paused,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = AdminCoupon)]
pub struct AdminCouponView {
    #[serde(flatten)]
    coupon: CouponView,
    paused: bool,
    /// Whether `GET /v1/coupons` leaves the coupon out.
    unlisted: bool,
    /// Grows by one with each edit; also in the `ETag`.
    version: i64,
    /// The partition that the coupon belongs to for ever; the first of them for a coupon with several shares.
    #[schema(minimum = 0)]
    partition: i16,
    /// What each partition has of the coupon; absent for a coupon of one partition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shares: Vec<ShareView>,
    /// Units of claims that are not recorded yet.
    accepted: i64,
    reserved: i64,
    confirmed: i64,
    /// Units that came back to stock.
    returned: i64,
    /// Fields of which Redis has another value than Postgres; absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_in_force: Vec<FieldDifference>,
}

/// What one partition has of a coupon.
#[derive(Serialize, ToSchema)]
#[schema(as = Share)]
pub struct ShareView {
    #[schema(minimum = 0)]
    partition: i16,
    /// Units for sale in this partition, with those that are held.
    #[schema(minimum = 0)]
    total: i64,
    /// Units left in this partition.
    #[schema(minimum = 0)]
    stock: i64,
}

impl From<&Share> for ShareView {
    fn from(share: &Share) -> Self {
        Self { partition: share.partition.number(), total: share.total, stock: share.stock }
    }
}

impl From<AdminCoupon> for AdminCouponView {
    fn from(coupon: AdminCoupon) -> Self {
        Self {
            coupon: CouponView::from(&coupon.snapshot),
            paused: coupon.definition.paused,
            unlisted: coupon.definition.unlisted,
            version: coupon.definition.version,
            partition: coupon.shares.first().map_or(0, |share| share.partition.number()),
            shares: match &coupon.shares[..] {
                [_] => Vec::new(),
                shares => shares.iter().map(ShareView::from).collect(),
            },
            accepted: coupon.units.accepted,
            reserved: coupon.units.reserved,
            confirmed: coupon.units.confirmed,
            returned: coupon.units.returned,
            not_in_force: coupon.not_in_force,
        }
    }
}

/// `POST /v1/admin/coupons`
pub async fn create(api: Arc<Api>, mut request: Request) -> Answer {
    let origin = api.auth.admin_origin(&request)?;
    let body: NewCouponBody = request.json().await?;
    let location = format!("/v1/coupons/{}", body.id);
    let new: NewCoupon = body.into();
    let mut response = match api.partitions.create(new, &origin).await? {
        Created::New(coupon) => answer(StatusCode::CREATED, coupon),
        Created::Same(coupon) => answer(StatusCode::OK, coupon),
    };
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `GET /v1/admin/coupons/{coupon}`
pub async fn show(api: Arc<Api>, coupon: &str, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let id = coupon_id(coupon)?;
    let coupon = api.partitions.coupon(&id).await?;
    Ok(answer(StatusCode::OK, coupon))
}

/// `GET /v1/admin/coupons`, with the unlisted ones
pub async fn list(api: Arc<Api>, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let page: Page<CouponId> = Page::read(&request.query_fields())?;
    let mut coupons = api.partitions.coupons(page.after.as_ref(), page.rows()).await?;
    let next = page.cut(&mut coupons, |(id, _)| id.clone());
    let items = coupons.into_iter().filter_map(|(_, coupon)| coupon.map(AdminCouponView::from)).collect();
    Ok(json(StatusCode::OK, &List::page(items, next)))
}

/// `PATCH /v1/admin/coupons/{coupon}`
pub async fn edit(api: Arc<Api>, coupon: &str, mut request: Request) -> Answer {
    let origin = api.auth.admin_origin(&request)?;
    let id = coupon_id(coupon)?;
    let body: CouponPatchBody = request.json().await?;
    let expected = if_match(&request.headers);
    let coupon = api.partitions.edit(&id, &body.into(), &expected, &origin).await?;
    Ok(answer(StatusCode::OK, coupon))
}

fn answer(status: StatusCode, coupon: AdminCoupon) -> Response<Content> {
    let view = AdminCouponView::from(coupon);
    let mut response = json(status, &view);
    if let Ok(etag) = HeaderValue::from_str(&version_tag(view.version)) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// The admin's `ETag`: a strong tag of the definition, without the stock.
fn version_tag(version: i64) -> String {
    format!("\"v{version}\"")
}

fn if_match(headers: &HeaderMap) -> ExpectedVersion {
    if !headers.contains_key(header::IF_MATCH) {
        return ExpectedVersion::Any;
    }
    let lines = headers.get_all(header::IF_MATCH).iter().filter_map(|line| line.to_str().ok());
    let tags: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
    if tags.contains(&"*") {
        return ExpectedVersion::Any;
    }
    let version = |tag: &&str| tag.strip_prefix("\"v")?.strip_suffix('"')?.parse().ok();
    let is_ours = |tag: &&str, version: i64| version_tag(version) == **tag;
    let versions = tags.iter().filter_map(|tag| version(tag).filter(|version| is_ours(tag, *version)));
    ExpectedVersion::OneOf(versions.collect())
}
