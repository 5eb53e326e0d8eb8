//! Pending entries that somebody deleted or trimmed: once what was lost with them has been made good, they are
//! acknowledged, so that nobody waits for them, counted and told of.

use crate::config;
use crate::metrics;
use crate::redis::{Redis, RedisError, order_stream};

/// Counts each once, whoever else has found it too.
pub async fn settle(redis: &Redis, ids: &[String]) -> Result<(), RedisError> {
    let mut settled = 0;
    for ids in ids.chunks(config::SCAN_PAGE_ENTRIES) {
        settled += order_stream::acknowledge(redis, ids).await?;
    }
    if settled > 0 {
        let named: Vec<&str> = ids.iter().take(config::LOG_MAX_NAMES).map(String::as_str).collect();
        tracing::error!(
            deleted = settled,
            "{settled} pending entries were deleted or trimmed by somebody, what was lost with them is sent again: {}",
            named.join(", ")
        );
    }
    metrics::DELETED_ENTRIES.add(settled);
    Ok(())
}
