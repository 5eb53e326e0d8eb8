//! Pending entries that another program deleted or trimmed. A rebuild or a comparison sends their lost events again;
//! then this file acknowledges, counts and logs these entries.

use fred::types::Value;

use super::keys::GROUP;
use super::lua::{ACKNOWLEDGE_DELETED, DELETED_ENTRIES};
use super::order_stream::page;
use super::{Redis, RedisError, array, integer, script_args, text};
use crate::config;
use crate::metrics;

/// The ids in the pending entries list whose entries are gone. One script reads a page of the list and of the stream,
/// so that an entry that is acknowledged and trimmed at the same time does not count.
pub async fn find(redis: &Redis) -> Result<Vec<String>, RedisError> {
    let mut deleted = Vec::new();
    let mut from = "-".to_owned();
    loop {
        let more: [Value; 3] = [GROUP.into(), from.into(), page(config::DELETED_PAGE_ENTRIES)];
        let args = script_args(DELETED_ENTRIES.source(), [&*redis.keys.orders], more);
        let mut ids =
            array(redis.call("EVAL", args).await?, "deleted_entries")?.into_iter().filter_map(|id| text(&id));
        let last = ids.next().filter(|id| !id.is_empty());
        deleted.extend(ids);
        let Some(last) = last else { return Ok(deleted) };
        from = format!("({last}");
    }
}

/// Acknowledges deleted entries, after their lost events were sent again. Counts an entry once, also if several
/// processes found it.
pub async fn acknowledge_deleted(redis: &Redis, ids: &[String]) -> Result<(), RedisError> {
    let mut acknowledged = 0;
    for ids in ids.chunks(config::SCAN_PAGE_ENTRIES) {
        acknowledged += acknowledge_page(redis, ids).await?;
    }
    if acknowledged > 0 {
        let named: Vec<&str> = ids.iter().take(config::LOG_MAX_NAMES).map(String::as_str).collect();
        tracing::error!(
            deleted = acknowledged,
            "{acknowledged} pending entries were deleted or trimmed by another program; lost events are sent again: {}",
            named.join(", ")
        );
    }
    metrics::DELETED_ENTRIES.add(acknowledged);
    Ok(())
}

/// Returns how many were pending.
async fn acknowledge_page(redis: &Redis, ids: &[String]) -> Result<u64, RedisError> {
    let more = std::iter::once(GROUP).chain(ids.iter().map(String::as_str));
    let args = script_args(ACKNOWLEDGE_DELETED.source(), [&*redis.keys.orders, &*redis.keys.tally], more);
    let acknowledged = integer(&redis.call("EVAL", args).await?, "acknowledge_deleted")?;
    Ok(u64::try_from(acknowledged).unwrap_or(0))
}
