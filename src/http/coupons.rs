//! Coupons as every client may see them: from snapshots, never from Postgres.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::Api;
use super::answer::{Content, List, client_has, json, not_modified};
use super::problem::{Answer, Problem};
use super::request::{Page, Request, coupon_id};
use crate::config;
use crate::coupons::view::CouponView;
use crate::domain::{CouponId, CouponSnapshot};

/// `GET /v1/coupons/{coupon}`
pub async fn show(api: &Api, coupon: &str, request: Request) -> Answer {
    let coupon = coupon_id(coupon)?;
    let snapshot = api.partitions.snapshot(&coupon).await?.ok_or_else(|| Problem::unknown_coupon(&coupon))?;
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
    let snapshots = api.partitions.snapshots(ids).await?;
    let tag = etag(snapshots.iter().map(|snapshot| &**snapshot), next.as_deref());
    Ok(public(&request.headers, &tag, || {
        let items = snapshots.iter().map(|snapshot| CouponView::from(&**snapshot)).collect();
        json(StatusCode::OK, &List::page(items, next))
    }))
}

/// A weak tag: the same tag means the same answer except for `server_time`.
fn etag<'a>(snapshots: impl IntoIterator<Item = &'a CouponSnapshot>, next: Option<&str>) -> String {
    let mut hasher = DefaultHasher::new();
    next.hash(&mut hasher);
    for snapshot in snapshots {
        snapshot.hash_shown(&mut hasher);
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
