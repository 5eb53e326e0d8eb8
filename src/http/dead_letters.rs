//! The admin's dead letters: read, replay (a new claim for the letter's user), and discard (mark as seen).

use std::str::FromStr;
use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::answer::{List, json};
use super::claims::{OrderView, make_claim};
use super::problem::{Answer, Code, Problem};
use super::request::{Page, Request, RowNumber, segment};
use crate::config;
use crate::domain::{CouponId, IdempotencyKey, Order, OrderId, UserId};
use crate::logs::order_step;
use crate::postgres::dead_letters::{self, DeadLetter, decode_fields};

#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub struct LetterView {
    id: i64,
    /// The partition whose stream has the entry.
    partition: i16,
    /// The id of the stream's entry.
    #[schema(required)]
    entry: Option<String>,
    #[schema(required)]
    order: Option<Uuid>,
    /// `None` with `user` if the letter's fields do not name both.
    #[schema(required)]
    coupon: Option<CouponId>,
    #[schema(required)]
    user: Option<UserId>,
    /// Why the event could not be recorded.
    error: String,
    /// How often the entry was delivered to a worker.
    #[schema(required)]
    deliveries: Option<i64>,
    #[serde(with = "time::serde::rfc3339")]
    died_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    seen_at: Option<OffsetDateTime>,
    /// The order of the new claim, after a replay.
    #[schema(required)]
    replaced_by: Option<Uuid>,
    /// The event's fields; only in the answers about one letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<Vec<FieldView>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterField)]
pub struct FieldView {
    name: String,
    value: String,
}

/// `GET /v1/admin/dead`
pub async fn list(api: Arc<Api>, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let page: Page<RowNumber> = Page::read(&request.query_fields())?;
    let mut letters =
        dead_letters::list(&api.postgres.pool, page.after.map(|row| row.0), page.rows()).await?;
    let next = page.cut(&mut letters, |letter| letter.id);
    let items = letters.into_iter().map(|letter| view(letter, false)).collect();
    Ok(json(StatusCode::OK, &List::page(items, next)))
}

/// `GET /v1/admin/dead/{id}`
pub async fn show(api: Arc<Api>, id: &str, request: Request) -> Answer {
    api.auth.admin(&request.headers)?;
    let letter = find(&api, id).await?;
    Ok(json(StatusCode::OK, &view(letter, true)))
}

/// `POST /v1/admin/dead/{id}/replay`: makes a new claim for the letter's user, and answers like any claim. The new
/// claim has the key of the letter's claim, so that the user's own repeat gets the same order. Without a key in the
/// letter, the key is `replay-<id>`.
pub async fn replay(api: Arc<Api>, id: &str, mut request: Request) -> Answer {
    let origin = api.auth.admin_origin(&request)?;
    request.optional_object().await?;
    let letter = find(&api, id).await?;
    let Claimant { coupon, user, key } = claimant(&letter).ok_or_else(|| {
        Problem::new(
            Code::NotReplayable,
            "the letter names no coupon and user: claim on the user's behalf instead",
        )
    })?;
    if let Some(order) = letter.replaced_by {
        let partition = api.partitions.of(&coupon).await?;
        let row = partition.orders.row(OrderId(order)).await.ok().flatten();
        let row = row.unwrap_or_else(|| Order::accepted(OrderId(order), coupon, user));
        return Ok(json(StatusCode::OK, &OrderView::from(row)));
    }
    let key = key.or_else(|| format!("replay-{}", letter.id).parse().ok());
    let (order, response) = make_claim(&api, coupon.clone(), user, key, &request.headers).await?;
    dead_letters::mark_replaced(&api.postgres.pool, letter.id, &coupon, order, &origin).await?;
    if let Some(rejected) = letter.order_id.map(OrderId) {
        order_step!(rejected, replaced_by = %order, "replayed");
    }
    Ok(response)
}

/// `POST /v1/admin/dead/{id}/discard`
pub async fn discard(api: Arc<Api>, id: &str, mut request: Request) -> Answer {
    let origin = api.auth.admin_origin(&request)?;
    request.optional_object().await?;
    let letter = find(&api, id).await?;
    let coupon = claimant(&letter).map(|claimant| claimant.coupon);
    dead_letters::mark_seen(&api.postgres.pool, letter.id, coupon.as_ref(), &origin).await?;
    let letter = find(&api, id).await?;
    Ok(json(StatusCode::OK, &view(letter, true)))
}

async fn find(api: &Api, id: &str) -> Result<DeadLetter, Problem> {
    let id: LetterId = segment(id)?.parse().map_err(|wrong: &str| Problem::bad_request(wrong))?;
    let none = || Problem::new(Code::NotFound, format!("there is no dead letter {}", id.0));
    dead_letters::get(&api.postgres.pool, id.0).await?.ok_or_else(none)
}

#[derive(Clone, Copy)]
struct LetterId(i64);

impl FromStr for LetterId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "a dead letter's id is a number")
    }
}

/// The coupon, user and key of the claim that a letter's event belongs to.
struct Claimant {
    coupon: CouponId,
    user: UserId,
    key: Option<IdempotencyKey>,
}

fn claimant(letter: &DeadLetter) -> Option<Claimant> {
    let fields = decode_fields(&letter.fields)?;
    let get = |name: &str| {
        let pair = fields.chunks_exact(2).find(|pair| pair[0] == name.as_bytes())?;
        std::str::from_utf8(pair[1]).ok()
    };
    let (coupon, user) = (get("coupon")?.parse().ok()?, get("user")?.parse().ok()?);
    Some(Claimant { coupon, user, key: get("key").and_then(|key| key.parse().ok()) })
}

fn view(letter: DeadLetter, with_fields: bool) -> LetterView {
    let (coupon, user) = claimant(&letter).map(|claimant| (claimant.coupon, claimant.user)).unzip();
    let fields = decode_fields(&letter.fields).filter(|_| with_fields);
    LetterView {
        id: letter.id,
        partition: letter.partition,
        entry: letter.entry_id,
        order: letter.order_id,
        coupon,
        user,
        error: letter.error,
        deliveries: letter.deliveries,
        died_at: letter.died_at,
        seen_at: letter.seen_at,
        replaced_by: letter.replaced_by,
        fields: fields.map(|fields| {
            let pairs = fields.chunks(2);
            pairs
                .map(|pair| FieldView {
                    name: text(pair[0]),
                    value: pair.get(1).map_or_else(String::new, |v| text(v)),
                })
                .collect()
        }),
    }
}

/// Any bytes as text, cut after `DEAD_LETTER_FIELD_MAX_BYTES`; psql shows the rest.
fn text(bytes: &[u8]) -> String {
    let most = config::DEAD_LETTER_FIELD_MAX_BYTES;
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(most)]);
    if bytes.len() > most { format!("{shown}… ({} bytes)", bytes.len()) } else { shown.into_owned() }
}
