//! Coupons as every client may see them: from snapshots, never from Postgres.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use futures_util::future::try_join_all;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::Api;
use super::answer::{Content, List, client_has, json, not_modified};
use super::problem::{Answer, Problem};
use super::request::{Page, Request, coupon_id};
use crate::config;
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

/// `GET /v1/coupons/{coupon}`
pub async fn show(api: &Api, coupon: &str, request: Request) -> Answer {
    let coupon = coupon_id(coupon)?;
    let snapshot = api.snapshots.get(&coupon).await?.ok_or_else(|| Problem::unknown_coupon(&coupon))?;
    let tag = etag([&*snapshot], None);
    Ok(public(&request.headers, &tag, || json(StatusCode::OK, &CouponView::from(&*snapshot))))
}

/// `GET /v1/coupons`
pub async fn list(api: Arc<Api>, request: Request) -> Answer {
    let page: Page<CouponId> = Page::read(&request.query_fields())?;
    // Without Postgres the list of ids is the last one that was read: a new coupon may be missing. The stock comes from
    // Redis.
    api.catalogue.refresh_briefly(config::SNAPSHOT_MAX_AGE).await;
    let rows = usize::try_from(page.rows()).unwrap_or(usize::MAX);
    let mut ids = api.catalogue.page(page.after.as_ref(), rows, false);
    let next = page.cut(&mut ids, CouponId::clone);
    let snapshots = try_join_all(ids.iter().map(|id| api.snapshots.get(id))).await?;
    let snapshots: Vec<_> = snapshots.iter().flatten().collect();
    let tag = etag(snapshots.iter().map(|snapshot| &***snapshot), next.as_deref());
    Ok(public(&request.headers, &tag, || {
        let items = snapshots.iter().map(|snapshot| CouponView::from(&***snapshot)).collect();
        json(StatusCode::OK, &List::page(items, next))
    }))
}

/// A weak tag: the same tag means the same answer except for `server_time`.
fn etag<'a>(snapshots: impl IntoIterator<Item = &'a CouponSnapshot>, next: Option<&str>) -> String {
    let mut hasher = DefaultHasher::new();
    next.hash(&mut hasher);
    for snapshot in snapshots {
        let CouponSnapshot { id, version, stock, waiting, .. } = snapshot;
        (id.as_str(), version, stock, waiting, snapshot.state() as u8).hash(&mut hasher);
    }
    format!("W/\"{:016x}\"", hasher.finish())
}

/// An answer that caches may keep for a second, or 304.
fn public(headers: &HeaderMap, tag: &str, answer: impl FnOnce() -> Response<Content>) -> Response<Content> {
    let mut response = if client_has(headers, tag) { not_modified() } else { answer() };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=1"));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
