//! Pending entries that another program deleted or trimmed: acknowledged, counted and logged after the events that were
//! lost with them are in the stream again, so that they are not pending for ever.

use crate::config;
use crate::metrics;
use crate::redis::{Redis, RedisError, order_stream};

/// Acknowledges deleted entries. Each is counted once, also if several processes find it.
///
/// # Errors
/// If Redis does not answer.
pub async fn acknowledge_deleted(redis: &Redis, ids: &[String]) -> Result<(), RedisError> {
    let mut acknowledged = 0;
    for ids in ids.chunks(config::SCAN_PAGE_ENTRIES) {
        acknowledged += order_stream::acknowledge(redis, ids).await?;
    }
    if acknowledged > 0 {
        let named: Vec<&str> = ids.iter().take(config::LOG_MAX_NAMES).map(String::as_str).collect();
        tracing::error!(
            deleted = acknowledged,
            "{acknowledged} pending entries were deleted or trimmed by another program; the lost events are sent \
             again: {}",
            named.join(", ")
        );
    }
    metrics::DELETED_ENTRIES.add(acknowledged);
    Ok(())
}
