//! The order stream and its consumer group: reading entries, and the state of group and consumers. `domain::OrderEvent`
//! decodes an entry; `scripts.rs` acknowledges, `reclaim.rs` takes over pending entries.

use bytes::Bytes;
use fred::types::Value;
use serde::Serialize;
use std::collections::HashSet;
use std::time::Duration;
use utoipa::ToSchema;

use super::keys::GROUP;
use super::{Redis, RedisError, array, integer, text};
use crate::config;

/// One entry of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: String,
    /// Fields and values in turn; any bytes.
    pub fields: Vec<Bytes>,
}

/// The result of a read in the consumer group.
#[derive(Debug, Default)]
pub struct Entries {
    pub entries: Vec<Entry>,
    /// Pending ids whose entries were deleted or trimmed.
    pub deleted: Vec<String>,
}

/// Entries that no consumer has read yet.
pub async fn read_new(redis: &Redis, consumer: &str) -> Result<Entries, RedisError> {
    read(redis, consumer, None, ">").await
}

/// As `read_new`, but waits up to `REDIS_BLOCK_TIMEOUT` for the first entry.
pub async fn wait_for_new(redis: &Redis, consumer: &str) -> Result<Entries, RedisError> {
    let block = i64::try_from(config::REDIS_BLOCK_TIMEOUT.as_millis()).unwrap_or(i64::MAX);
    read(redis, consumer, Some(block), ">").await
}

/// This consumer's own pending entries after the id `after`.
pub async fn read_pending(redis: &Redis, consumer: &str, after: &str) -> Result<Entries, RedisError> {
    read(redis, consumer, None, after).await
}

async fn read(
    redis: &Redis,
    consumer: &str,
    block_ms: Option<i64>,
    from: &str,
) -> Result<Entries, RedisError> {
    let mut args: Vec<Value> = vec!["GROUP".into(), GROUP.into(), consumer.into()];
    args.extend(["COUNT".into(), page(config::RECORD_BATCH_MAX_EVENTS)]);
    if let Some(block_ms) = block_ms {
        args.extend(["BLOCK".into(), block_ms.into()]);
    }
    args.extend(["STREAMS".into(), (&*redis.keys.orders).into(), from.into()]);
    let streams = array(redis.call("XREADGROUP", args).await?, "XREADGROUP")?;
    let Some(stream) = streams.into_iter().next() else { return Ok(Entries::default()) };
    let entries = array(stream, "XREADGROUP stream")?.pop().unwrap_or(Value::Null);
    decode_entries(array(entries, "XREADGROUP entries")?)
}

/// How often an entry was delivered; 0 if it is not pending.
pub async fn delivery_count(redis: &Redis, id: &str) -> Result<i64, RedisError> {
    let args = vec![(&*redis.keys.orders).into(), GROUP.into(), id.into(), id.into(), 1.into()];
    let rows = array(redis.call("XPENDING", args).await?, "XPENDING")?;
    match rows.into_iter().next() {
        Some(row) => integer(array(row, "XPENDING row")?.get(3).unwrap_or(&Value::Null), "delivery count"),
        None => Ok(0),
    }
}

/// One page of entries from `from` (exclusive with a leading `(`) to `to`, oldest first.
pub async fn range(redis: &Redis, from: &str, to: &str) -> Result<Vec<Entry>, RedisError> {
    let args = vec![
        (&*redis.keys.orders).into(),
        from.into(),
        to.into(),
        "COUNT".into(),
        page(config::SCAN_PAGE_ENTRIES),
    ];
    Ok(decode_entries(array(redis.call("XRANGE", args).await?, "XRANGE")?)?.entries)
}

/// The newest entries, oldest first.
pub async fn newest(redis: &Redis, count: usize) -> Result<Vec<Entry>, RedisError> {
    let args = vec![(&*redis.keys.orders).into(), "+".into(), "-".into(), "COUNT".into(), page(count)];
    let newest_first = decode_entries(array(redis.call("XREVRANGE", args).await?, "XREVRANGE")?)?.entries;
    Ok(newest_first.into_iter().rev().collect())
}

/// A delivery that is not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingEntry {
    pub id: String,
    pub consumer: String,
    pub idle_ms: i64,
    pub deliveries: i64,
}

/// The group's pending entries from one id to another, at most one page.
pub async fn pending_between(redis: &Redis, from: &str, to: &str) -> Result<Vec<PendingEntry>, RedisError> {
    let args = vec![
        (&*redis.keys.orders).into(),
        GROUP.into(),
        from.into(),
        to.into(),
        page(config::SCAN_PAGE_ENTRIES),
    ];
    let rows = array(redis.call("XPENDING", args).await?, "XPENDING")?;
    let read = |row: Value| {
        let row = array(row, "XPENDING row")?;
        let [id, consumer, idle_ms, deliveries] = <[Value; 4]>::try_from(row)
            .map_err(|row| RedisError::Reply(format!("XPENDING: a row of {} values", row.len())))?;
        Ok(PendingEntry {
            id: text(&id).unwrap_or_default(),
            consumer: text(&consumer).unwrap_or_default(),
            idle_ms: integer(&idle_ms, "idle time")?,
            deliveries: integer(&deliveries, "delivery count")?,
        })
    };
    rows.into_iter().map(read).collect()
}

/// One page of the group's pending ids, from `from` on.
pub async fn pending_ids(redis: &Redis, from: &str) -> Result<Vec<String>, RedisError> {
    let args = vec![
        (&*redis.keys.orders).into(),
        GROUP.into(),
        from.into(),
        "+".into(),
        page(config::SCAN_PAGE_ENTRIES),
    ];
    let rows = array(redis.call("XPENDING", args).await?, "XPENDING")?;
    rows.into_iter()
        .map(|row| {
            let row = array(row, "XPENDING row")?;
            row.first()
                .and_then(text)
                .ok_or_else(|| RedisError::Reply("XPENDING: a row without an id".into()))
        })
        .collect()
}

/// Reads every entry that the group has not acknowledged, in pages: the pending ones, then the unread ones, each part
/// oldest first. While workers run, the scan may return an entry that a worker acknowledges at the same time. It misses
/// no entry.
pub struct UnacknowledgedScan<'a> {
    redis: &'a Redis,
    /// Pending ids whose entries were not read yet.
    pending: HashSet<String>,
    from: String,
    /// The last delivered id, until the scan has passed it: up to this id only pending entries count.
    last_delivered: Option<String>,
}

impl<'a> UnacknowledgedScan<'a> {
    pub async fn start(redis: &'a Redis) -> Result<Self, RedisError> {
        let groups = groups(redis).await?;
        let group = groups.into_iter().find(|group| group.name == GROUP);
        let group = group.ok_or_else(|| RedisError::NoGroup("it is not there".into()))?;
        let mut pending: HashSet<String> = HashSet::new();
        let mut first_pending = None;
        let mut from = "-".to_owned();
        loop {
            let page = pending_ids(redis, &from).await?;
            let Some(last) = page.last().cloned() else { break };
            first_pending.get_or_insert_with(|| page[0].clone());
            pending.extend(page);
            from = format!("({last}");
        }
        let (from, last_delivered) = match first_pending {
            Some(first) => (first, Some(group.last_delivered_id)),
            None => (format!("({}", group.last_delivered_id), None),
        };
        Ok(Self { redis, pending, from, last_delivered })
    }

    /// The next entries; a page may be empty. `None` at the end.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Entry>>, RedisError> {
        let to = self.last_delivered.as_deref().unwrap_or("+");
        let mut page = range(self.redis, &self.from, to).await?;
        let Some(last) = page.last() else {
            let Some(passed) = self.last_delivered.take() else { return Ok(None) };
            self.from = format!("({passed}");
            return Ok(Some(page));
        };
        self.from = format!("({}", last.id);
        page.retain(|entry| self.pending.remove(&entry.id) || self.last_delivered.is_none());
        Ok(Some(page))
    }

    /// After the last page: the pending ids whose entries are deleted. While workers run, some of these may be entries
    /// that were acknowledged and trimmed during the scan.
    pub fn deleted(self) -> Vec<String> {
        self.pending.into_iter().collect()
    }
}

/// One consumer group of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ConsumerGroup)]
pub struct GroupInfo {
    pub name: String,
    pub consumers: i64,
    /// Delivered, not acknowledged.
    pub pending: i64,
    /// Not delivered; `None` if Redis has stopped counting.
    #[schema(required)]
    pub lag: Option<i64>,
    pub last_delivered_id: String,
    #[schema(required)]
    pub entries_read: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Consumer)]
pub struct ConsumerInfo {
    pub name: String,
    pub pending: i64,
    pub idle_ms: i64,
}

/// All groups of the stream; empty if the stream is absent.
pub async fn groups(redis: &Redis) -> Result<Vec<GroupInfo>, RedisError> {
    let reply = match redis.call("XINFO", vec!["GROUPS".into(), (&*redis.keys.orders).into()]).await {
        Err(RedisError::Refused(details)) if details.contains("no such key") => return Ok(Vec::new()),
        reply => array(reply?, "XINFO GROUPS")?,
    };
    reply
        .into_iter()
        .map(|group| {
            let fields = array(group, "XINFO GROUPS group")?;
            Ok(GroupInfo {
                name: field(&fields, "name").and_then(text).unwrap_or_default(),
                consumers: field(&fields, "consumers").and_then(Value::as_i64).unwrap_or(0),
                pending: field(&fields, "pending").and_then(Value::as_i64).unwrap_or(0),
                lag: field(&fields, "lag").and_then(Value::as_i64),
                last_delivered_id: field(&fields, "last-delivered-id").and_then(text).unwrap_or_default(),
                entries_read: field(&fields, "entries-read").and_then(Value::as_i64),
            })
        })
        .collect()
}

/// The workers' consumers.
pub async fn consumers(redis: &Redis) -> Result<Vec<ConsumerInfo>, RedisError> {
    let args = vec!["CONSUMERS".into(), (&*redis.keys.orders).into(), GROUP.into()];
    array(redis.call("XINFO", args).await?, "XINFO CONSUMERS")?
        .into_iter()
        .map(|consumer| {
            let fields = array(consumer, "XINFO CONSUMERS consumer")?;
            Ok(ConsumerInfo {
                name: field(&fields, "name").and_then(text).unwrap_or_default(),
                pending: field(&fields, "pending").and_then(Value::as_i64).unwrap_or(0),
                idle_ms: field(&fields, "idle").and_then(Value::as_i64).unwrap_or(0),
            })
        })
        .collect()
}

/// Entries that the group has not read: exact up to a page. Above, it is Redis's `lag`, an upper bound: it may be missing,
/// may include entries that were trimmed before they were read, and in Redis 7.0 counts entries as unread that were read
/// before a restart.
pub async fn unread(redis: &Redis, group: &GroupInfo) -> Result<i64, RedisError> {
    if last_id(redis).await?.is_none_or(|last| last == group.last_delivered_id) {
        return Ok(0);
    }
    let page = range(redis, &format!("({}", group.last_delivered_id), "+").await?.len();
    if page < config::SCAN_PAGE_ENTRIES {
        return Ok(i64::try_from(page).unwrap_or(i64::MAX));
    }
    let length = length(redis).await?;
    Ok(group.lag.map_or(length, |lag| lag.min(length)))
}

pub async fn length(redis: &Redis) -> Result<i64, RedisError> {
    integer(&redis.call("XLEN", vec![(&*redis.keys.orders).into()]).await?, "XLEN")
}

pub async fn first_id(redis: &Redis) -> Result<Option<String>, RedisError> {
    end(redis, "XRANGE", ["-", "+"]).await
}

pub async fn last_id(redis: &Redis) -> Result<Option<String>, RedisError> {
    end(redis, "XREVRANGE", ["+", "-"]).await
}

/// The first entry that the group has not read.
pub async fn first_unread_id(redis: &Redis, group: &GroupInfo) -> Result<Option<String>, RedisError> {
    let after = format!("({}", group.last_delivered_id);
    end(redis, "XRANGE", [&after, "+"]).await
}

/// Whether the group has acknowledged every entry up to this id. An entry that is delivered again after a repair counts
/// as not acknowledged.
pub async fn is_acknowledged_up_to(redis: &Redis, id: &str) -> Result<bool, RedisError> {
    let up_to = parse_id(id);
    let Some(group) = groups(redis).await?.into_iter().find(|group| group.name == GROUP) else {
        return Ok(false);
    };
    if parse_id(&group.last_delivered_id) < up_to {
        return Ok(false);
    }
    if group.pending == 0 {
        return Ok(true);
    }
    // The group delivers in order: every entry below its first pending one is acknowledged.
    Ok(first_pending_id(redis).await?.is_some_and(|first| parse_id(&first) > up_to))
}

/// The lowest id that was delivered and is not acknowledged.
pub async fn first_pending_id(redis: &Redis) -> Result<Option<String>, RedisError> {
    let summary = redis.call("XPENDING", vec![(&*redis.keys.orders).into(), GROUP.into()]).await?;
    Ok(array(summary, "XPENDING")?.get(1).and_then(text))
}

/// The first id after this one.
pub async fn first_id_after(redis: &Redis, id: &str) -> Result<Option<String>, RedisError> {
    end(redis, "XRANGE", [&format!("({id}"), "+"]).await
}

/// When an entry was appended, by Redis's clock, since 1970; zero if the id cannot be read.
#[must_use]
pub fn appended_at(id: &str) -> Duration {
    Duration::from_millis(parse_id(id).0)
}

/// The two numbers of an entry's id; 0 for each number that cannot be read.
fn parse_id(id: &str) -> (u64, u64) {
    let (ms, sequence) = id.split_once('-').unwrap_or((id, "0"));
    (ms.parse().unwrap_or(0), sequence.parse().unwrap_or(0))
}

async fn end(
    redis: &Redis,
    command: &'static str,
    [from, to]: [&str; 2],
) -> Result<Option<String>, RedisError> {
    let args = vec![(&*redis.keys.orders).into(), from.into(), to.into(), "COUNT".into(), 1.into()];
    let mut read = decode_entries(array(redis.call(command, args).await?, command)?)?;
    Ok(read.entries.pop().map(|entry| entry.id))
}

fn field<'a>(fields: &'a [Value], name: &str) -> Option<&'a Value> {
    fields.chunks_exact(2).find(|pair| pair[0].as_str().as_deref() == Some(name)).map(|pair| &pair[1])
}

pub(super) fn page(count: usize) -> Value {
    i64::try_from(count).unwrap_or(i64::MAX).into()
}

pub(super) fn decode_entries(values: Vec<Value>) -> Result<Entries, RedisError> {
    let mut decoded = Entries { entries: Vec::with_capacity(values.len()), deleted: Vec::new() };
    for value in values {
        let mut entry = array(value, "stream entry")?.into_iter();
        let id = entry
            .next()
            .as_ref()
            .and_then(text)
            .ok_or_else(|| RedisError::Reply("a stream entry without an id".into()))?;
        match entry.next() {
            Some(Value::Array(fields)) => decoded.entries.push(Entry {
                id,
                fields: fields.into_iter().map(|value| value.into_bytes().unwrap_or_default()).collect(),
            }),
            _ => decoded.deleted.push(id),
        }
    }
    Ok(decoded)
}
