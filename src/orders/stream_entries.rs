//! Entries of the order stream for the operator, each with what has become of it.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::domain::{CouponId, Order, OrderEvent, OrderId, OrderStatus, UserId};
use crate::fence::{Fence, StoreError};
use crate::postgres::{Postgres, orders};
use crate::redis::keys::GROUP;
use crate::redis::order_stream::{self as stream, Entry, PendingEntry};

/// The id of an entry, such as `1795528800318-0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryId {
    ms: u64,
    number: u64,
}

/// What has become of an entry in the workers' group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EntryState {
    /// No worker has read it.
    Waiting,
    /// A worker has it and has not acknowledged it.
    Delivered,
    /// It is recorded, or a dead letter.
    Acknowledged,
}

/// An entry of the order stream.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = StreamEntry)]
pub struct EntryView {
    /// The id of the entry.
    entry: String,
    /// When it was appended, by Redis's clock.
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    state: EntryState,
    #[schema(required)]
    order: Option<OrderId>,
    #[schema(required)]
    coupon: Option<CouponId>,
    #[schema(required)]
    user: Option<UserId>,
    #[schema(required)]
    slot: Option<i16>,
    /// Why it cannot be read as an order event.
    #[schema(required)]
    error: Option<String>,
    /// The order's status; `None` while the order has no row.
    #[schema(required)]
    status: Option<OrderStatus>,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(required)]
    recorded_at: Option<OffsetDateTime>,
    /// The worker that has it, how often it was delivered, and for how long the worker has had it.
    #[schema(required)]
    consumer: Option<String>,
    #[schema(required)]
    deliveries: Option<i64>,
    #[schema(required)]
    idle_ms: Option<i64>,
}

/// Which entries to read.
pub enum Selection {
    /// The newest ones.
    Newest,
    /// The oldest ones after an entry.
    After(EntryId),
    /// The oldest ones.
    FromStart,
}

/// Reads at most `limit` entries, oldest first.
///
/// # Errors
/// If the fence is down, or a store does not answer.
pub async fn read(
    fence: &Fence,
    postgres: &Postgres,
    selection: Selection,
    limit: usize,
) -> Result<Vec<EntryView>, StoreError> {
    let session = fence.require_session()?;
    let redis = &session.redis;
    let mut entries = match selection {
        Selection::Newest => stream::newest(redis, limit).await?,
        Selection::After(id) => stream::range(redis, &format!("({id}"), "+").await?,
        Selection::FromStart => stream::range(redis, "-", "+").await?,
    };
    entries.truncate(limit);
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(Vec::new()) };
    // The group before the pending entries: an entry that is acknowledged in between is neither waiting nor pending.
    let groups = stream::groups(redis).await?;
    let delivered = groups.iter().find(|group| group.name == GROUP);
    let delivered: Option<EntryId> = delivered.and_then(|group| group.last_delivered_id.parse().ok());
    let pending = stream::pending_between(redis, &first.id, &last.id).await?;
    let pending: HashMap<&str, &PendingEntry> =
        pending.iter().map(|pending| (pending.id.as_str(), pending)).collect();
    let events: Vec<_> = entries.iter().map(|entry| OrderEvent::read(&entry.fields)).collect();
    let ids: Vec<OrderId> = events.iter().filter_map(|event| Some(event.as_ref().ok()?.order)).collect();
    let rows = orders::get_many(&postgres.pool, &ids).await?;
    let rows: HashMap<OrderId, &Order> = rows.iter().map(|order| (order.id, order)).collect();
    let view = |(entry, event)| view(entry, event, delivered.as_ref(), &pending, &rows);
    Ok(entries.iter().zip(events).map(view).collect())
}

fn view(
    entry: &Entry,
    event: Result<OrderEvent, crate::domain::UnreadableEvent>,
    delivered: Option<&EntryId>,
    pending: &HashMap<&str, &PendingEntry>,
    rows: &HashMap<OrderId, &Order>,
) -> EntryView {
    let id: Option<EntryId> = entry.id.parse().ok();
    let pending = pending.get(entry.id.as_str());
    let is_waiting = id.as_ref().zip(delivered).is_none_or(|(id, delivered)| id > delivered);
    let state = match pending {
        Some(_) => EntryState::Delivered,
        None if is_waiting => EntryState::Waiting,
        None => EntryState::Acknowledged,
    };
    let (order, error) = match &event {
        Ok(event) => (Some(event.order), None),
        Err(unreadable) => (unreadable.order, Some(unreadable.reason.clone())),
    };
    let event = event.ok();
    let row = order.and_then(|order| rows.get(&order));
    EntryView {
        entry: entry.id.clone(),
        at: id.and_then(|id| id.at()).unwrap_or(OffsetDateTime::UNIX_EPOCH),
        state,
        order,
        coupon: event.as_ref().map(|event| event.coupon.clone()),
        slot: event.as_ref().map(|event| event.slot),
        user: event.map(|event| event.user),
        error,
        status: row.map(|row| row.status),
        recorded_at: row.and_then(|row| row.recorded_at),
        consumer: pending.map(|pending| pending.consumer.clone()),
        deliveries: pending.map(|pending| pending.deliveries),
        idle_ms: pending.map(|pending| pending.idle_ms),
    }
}

impl EntryView {
    /// For the `after` of the next page.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.entry
    }
}

impl EntryId {
    fn at(&self) -> Option<OffsetDateTime> {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.ms) * 1_000_000).ok()
    }
}

impl PartialOrd for EntryId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some((self.ms, self.number).cmp(&(other.ms, other.number)))
    }
}

impl FromStr for EntryId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "an entry's id is two whole numbers, such as 1795528800318-0";
        let (ms, number) = text.split_once('-').ok_or(wrong)?;
        let parse = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        Ok(Self { ms: parse(ms).ok_or(wrong)?, number: parse(number).ok_or(wrong)? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.number)
    }
}
