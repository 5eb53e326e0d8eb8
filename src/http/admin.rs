//! The admin's side: coupons' definitions, and the stream's state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json as value;
use time::OffsetDateTime;

use super::Api;
use super::answer::{List, json};
use super::body::Rfc3339;
use super::claims::{coupon_id, unknown_coupon};
use super::coupons::CouponView;
use super::problem::{Code, Problem};
use super::request::{Page, Request};
use crate::config;
use crate::fence::publish::in_force::{self, Brought};
use crate::fence::publish::publish;
use crate::model::{CouponId, Definition};
use crate::postgres::coupons::{self, CouponRow, Edited};
use crate::redis::coupon_hash::{self, FieldDifference, KeptDefinition};
use crate::redis::keys::GROUP;
use crate::redis::{info, stream};

type Answer = Result<Response<Bytes>, Problem>;

/// How long the same coupon's other request is given to bring it into force.
const IN_FORCE_TIMEOUT: Duration = Duration::from_secs(2);
const IN_FORCE_POLL: Duration = Duration::from_millis(20);
/// How long an edit is tried again when others come between; one of them succeeds each time.
const EDIT_TIMEOUT: Duration = Duration::from_secs(4);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewCoupon {
    id: CouponId,
    total: i64,
    title: Option<String>,
    starts_at: Option<Rfc3339>,
    ends_at: Option<Rfc3339>,
    per_user_limit: Option<i64>,
    reserve_seconds: Option<i64>,
    unlisted: Option<bool>,
}

/// A merge patch (RFC 7396): absent leaves, null clears.
#[expect(clippy::option_option, reason = "a merge patch tells absent from null")]
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CouponPatch {
    #[serde(default, deserialize_with = "present")]
    title: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    total: Option<Option<i64>>,
    #[serde(default, deserialize_with = "present")]
    starts_at: Option<Option<Rfc3339>>,
    #[serde(default, deserialize_with = "present")]
    ends_at: Option<Option<Rfc3339>>,
    #[serde(default, deserialize_with = "present")]
    paused: Option<Option<bool>>,
}

fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[derive(Serialize)]
struct AdminCouponView {
    #[serde(flatten)]
    coupon: CouponView,
    paused: bool,
    unlisted: bool,
    version: i64,
    /// What Redis has otherwise than Postgres: an edit on its way, or one by hand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_in_force: Vec<FieldDifference>,
}

/// `POST /v1/admin/coupons`
pub async fn create_coupon(api: Arc<Api>, mut request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let definition = define(request.json().await?)?;
    let session = api.session()?;
    let created = coupons::insert(&api.postgres.pool, &definition).await?;
    if created {
        publish(&api.fence, &session, &api.postgres, true, &definition).await?;
        api.catalogue.refresh_briefly(Duration::ZERO).await;
        tracing::info!(coupon = %definition.id, total = definition.total, "created coupon {}", definition.id);
    } else {
        let row = coupons::get(&api.postgres.pool, &definition.id).await?;
        let same = row.is_some_and(|row| is_same(&row.definition, &definition));
        if !same {
            let detail =
                format!("another coupon {} exists: edit it with PATCH, or choose another id", definition.id);
            return Err(Problem::new(Code::CouponExists, detail));
        }
    }
    let row = in_force(&api, &definition.id).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = show(&api, row, status).await?;
    let location = format!("/v1/coupons/{}", definition.id);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `GET /v1/admin/coupons/{coupon}`
pub async fn show_coupon(api: Arc<Api>, coupon: &str, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let id = coupon_id(coupon)?;
    let row = coupons::get(&api.postgres.pool, &id).await?.ok_or_else(|| unknown_coupon(&id))?;
    show(&api, row, StatusCode::OK).await
}

/// `GET /v1/admin/coupons`, with the unlisted ones
pub async fn list_coupons(api: Arc<Api>, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let page: Page<CouponId> = Page::read(&request.query_fields())?;
    let mut rows = coupons::page(&api.postgres.pool, page.after.as_ref(), page.rows()).await?;
    let next = page.cut(&mut rows, |row| row.definition.id.clone());
    let session = api.session()?;
    let ids: Vec<CouponId> = rows.iter().map(|row| row.definition.id.clone()).collect();
    let kept = coupon_hash::read(&session.redis, &ids).await?;
    let mut items = Vec::with_capacity(rows.len());
    for (row, kept) in rows.into_iter().zip(kept) {
        items.extend(view(&api, row, kept).await?);
    }
    Ok(json(StatusCode::OK, &List::page(items, next)))
}

/// `PATCH /v1/admin/coupons/{coupon}`
pub async fn edit_coupon(api: Arc<Api>, coupon: &str, mut request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let id = coupon_id(coupon)?;
    let patch: CouponPatch = request.json().await?;
    let deadline = Instant::now() + EDIT_TIMEOUT;
    while Instant::now() < deadline {
        let row = coupons::get(&api.postgres.pool, &id).await?.ok_or_else(|| unknown_coupon(&id))?;
        check_if_match(&request.headers, row.definition.version)?;
        let edited = apply(&patch, &row.definition)?;
        if edited == row.definition {
            return show(&api, in_force(&api, &id).await?, StatusCode::OK).await;
        }
        // Only the request that inserted a coupon may make it in Redis: until then there is nothing to edit.
        if row.published_version == 0 {
            in_force(&api, &id).await?;
            continue;
        }
        let session = api.session()?;
        // Claims on their way are no rows yet; Postgres decides once more, about rows.
        let held = info::held_units(&session.redis, &id).await?;
        if edited.total < row.definition.total && edited.total < held {
            return Err(total_too_low(&id, held));
        }
        match coupons::edit(&api.postgres.pool, &edited).await? {
            Edited::Done => {
                let edited = Definition { version: edited.version + 1, ..edited };
                publish(&api.fence, &session, &api.postgres, false, &edited).await?;
                tracing::info!(coupon = %id, version = edited.version, "edited coupon {id}");
                return show(&api, in_force(&api, &id).await?, StatusCode::OK).await;
            }
            Edited::TotalTooLow => return Err(total_too_low(&id, row.definition.total - row.stock)),
            Edited::Stale => {}
        }
    }
    Err(Problem::unavailable("others are editing this coupon: send the edit again"))
}

/// `GET /v1/admin/stream`
pub async fn stream(api: &Api, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let session = match api.fence.session() {
        Ok(session) => session,
        Err(reason) => {
            return Ok(json(StatusCode::OK, &value!({"fence": {"state": "down", "reason": &*reason}})));
        }
    };
    let redis = &session.redis;
    let groups = stream::groups(redis).await?;
    let ours = groups.iter().find(|group| group.name == GROUP).cloned().unwrap_or_default();
    let unread = info::unread(redis, &ours).await?;
    let oldest = stream::pending_ids(redis, "-").await?.into_iter().next();
    let now_ms = info::now_ms(redis).await?;
    let entry_ms = |id: String| id.split('-').next().and_then(|ms| ms.parse::<i64>().ok());
    Ok(json(
        StatusCode::OK,
        &value!({
            "stream": &*redis.keys.orders,
            "length": stream::length(redis).await?,
            "first_entry_id": stream::first_id(redis).await?,
            "last_entry_id": stream::last_id(redis).await?,
            "group": GROUP,
            "backlog": ours.pending + unread,
            "pending": ours.pending,
            "lag": unread,
            "oldest_pending_ms": oldest.and_then(entry_ms).map(|ms| (now_ms - ms).max(0)),
            "consumers": stream::consumers(redis).await?,
            "groups": groups,
            "fence": {"state": "up", "epoch": session.epoch},
        }),
    ))
}

async fn show(api: &Api, row: CouponRow, status: StatusCode) -> Answer {
    let id = row.definition.id.clone();
    let kept = coupon_hash::read_one(&api.session()?.redis, &id).await?;
    let view = view(api, row, kept).await?.ok_or_else(|| {
        Problem::unavailable(format!("coupon {id} is not in force yet: ask again in a moment"))
    })?;
    let mut response = json(status, &view);
    if let Ok(etag) = HeaderValue::from_str(&format!("\"v{}\"", view.version)) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

/// The definition and stock as Redis has them, and where that is not what Postgres has. `kept` was read after `row`.
async fn view(
    api: &Api,
    row: CouponRow,
    kept: Option<KeptDefinition>,
) -> Result<Option<AdminCouponView>, Problem> {
    let session = api.session()?;
    let stands = in_force::stands(&session.redis, &api.postgres, row, kept).await;
    let (row, standing) = stands.map_err(|error| Problem::unavailable(error.to_string()))?;
    let snapshot = api.snapshots.read(&row.definition.id).await?;
    Ok(snapshot.map(|snapshot| AdminCouponView {
        coupon: CouponView::from(&*snapshot),
        paused: row.definition.paused,
        unlisted: row.definition.unlisted,
        version: row.definition.version,
        not_in_force: standing.differences(),
    }))
}

/// A 200 or 201 means in force: read back from Redis in every field, whichever request made this version.
async fn in_force(api: &Api, id: &CouponId) -> Result<CouponRow, Problem> {
    let deadline = Instant::now() + IN_FORCE_TIMEOUT;
    while Instant::now() < deadline {
        let session = api.session()?;
        match in_force::bring(&api.fence, &session, &api.postgres, id).await? {
            Brought::InForce(row) => return Ok(*row),
            Brought::Unknown => return Err(unknown_coupon(id)),
            Brought::NotMade => tokio::time::sleep(IN_FORCE_POLL).await,
            Brought::Overtaken => {}
        }
    }
    Err(Problem::unavailable("saved, but not in force yet: send it again"))
}

fn define(new: NewCoupon) -> Result<Definition, Problem> {
    let limit = new.per_user_limit.unwrap_or(1);
    if !(1..=config::PER_USER_LIMIT_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!("per_user_limit is 1 to {}", config::PER_USER_LIMIT_MAX)));
    }
    if limit > 1 {
        return Err(Problem::bad_request("per_user_limit above 1 is not supported yet: leave it out"));
    }
    let reserve = new.reserve_seconds;
    if reserve.is_some_and(|seconds| !(1..=config::RESERVE_MAX_SECONDS).contains(&seconds)) {
        return Err(Problem::bad_request(format!("reserve_seconds is 1 to {}", config::RESERVE_MAX_SECONDS)));
    }
    let definition = Definition {
        title: new.title.unwrap_or_else(|| new.id.to_string()),
        id: new.id,
        total: new.total,
        starts_at: new.starts_at.map(|time| whole_ms(time.0)).transpose()?,
        ends_at: new.ends_at.map(|time| whole_ms(time.0)).transpose()?,
        paused: false,
        per_user_limit: 1,
        reserve_seconds: reserve.and_then(|seconds| i32::try_from(seconds).ok()),
        unlisted: new.unlisted.unwrap_or(false),
        version: 1,
    };
    check_title(&definition.title)?;
    check(&definition)?;
    Ok(definition)
}

fn apply(patch: &CouponPatch, old: &Definition) -> Result<Definition, Problem> {
    let mut edited = old.clone();
    if let Some(title) = &patch.title {
        edited.title = title.clone().unwrap_or_else(|| old.id.to_string());
        check_title(&edited.title)?;
    }
    match patch.total {
        Some(Some(total)) => edited.total = total,
        Some(None) => return Err(Problem::bad_request("total cannot be cleared")),
        None => {}
    }
    if let Some(starts_at) = &patch.starts_at {
        edited.starts_at = starts_at.as_ref().map(|time| whole_ms(time.0)).transpose()?;
    }
    if let Some(ends_at) = &patch.ends_at {
        edited.ends_at = ends_at.as_ref().map(|time| whole_ms(time.0)).transpose()?;
    }
    if let Some(paused) = patch.paused {
        edited.paused = paused.unwrap_or(false);
    }
    check(&edited)?;
    Ok(edited)
}

fn check(definition: &Definition) -> Result<(), Problem> {
    if !(1..=config::TOTAL_MAX_UNITS).contains(&definition.total) {
        return Err(Problem::bad_request(format!("total is 1 to {}", config::TOTAL_MAX_UNITS)));
    }
    for (name, time) in [("starts_at", definition.starts_at), ("ends_at", definition.ends_at)] {
        if time.is_some_and(|time| time.unix_timestamp() <= 0) {
            return Err(Problem::bad_request(format!("{name} lies before 1970")));
        }
    }
    if definition.starts_at.zip(definition.ends_at).is_some_and(|(start, end)| start >= end) {
        return Err(Problem::bad_request("starts_at must be before ends_at"));
    }
    Ok(())
}

/// Only one that the request names: a pause does not fail for a title that came there by another way.
fn check_title(title: &str) -> Result<(), Problem> {
    let most = config::TITLE_MAX_CHARS;
    if (1..=most).contains(&title.chars().count()) && !title.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Problem::bad_request(format!("title is 1 to {most} characters, none of them control characters")))
}

/// The same but for what a later edit changes of itself.
fn is_same(row: &Definition, asked: &Definition) -> bool {
    Definition { version: row.version, ..asked.clone() } == *row
}

/// Redis keeps milliseconds; what is stored and compared is what is in force.
fn whole_ms(time: OffsetDateTime) -> Result<OffsetDateTime, Problem> {
    // The last hours of the year 9999 west of Greenwich lie beyond it in UTC.
    let utc = time
        .checked_to_offset(time::UtcOffset::UTC)
        .ok_or_else(|| Problem::bad_request("a time lies beyond the year 9999 in UTC"))?;
    Ok(utc.replace_nanosecond(utc.nanosecond() / 1_000_000 * 1_000_000).unwrap_or(utc))
}

fn check_if_match(headers: &HeaderMap, version: i64) -> Result<(), Problem> {
    if !headers.contains_key(header::IF_MATCH) {
        return Ok(());
    }
    let current = format!("\"v{version}\"");
    let lines = headers.get_all(header::IF_MATCH).iter().filter_map(|line| line.to_str().ok());
    if lines.flat_map(|line| line.split(',')).any(|tag| matches!(tag.trim(), t if t == "*" || t == current)) {
        return Ok(());
    }
    Err(Problem::new(Code::PreconditionFailed, format!("the coupon is at {current} now: read it again")))
}

fn total_too_low(id: &CouponId, held: i64) -> Problem {
    Problem::new(Code::TotalTooLow, format!("{held} units of coupon {id} are held already"))
}
