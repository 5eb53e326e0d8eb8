//! Takes over entries that stayed unacknowledged for too long: their worker crashed, or is so slow that
//! doing its work twice is better than waiting (it is safe).

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::record::{Ended, Handed, acknowledge, record};
use super::{Context, Link, leave, pause, report_deleted};
use crate::config;
use crate::redis::{RedisError, stream};

pub async fn run(context: Arc<Context>, consumer: String, reclaim_after: Duration, stop: CancellationToken) {
    let mut link = Link::new(&context);
    let interval = (reclaim_after / 4).clamp(config::BACKOFF_MIN, config::BACKOFF_MAX);
    while !stop.is_cancelled() {
        match round(&context, &mut link, &consumer, reclaim_after, &stop).await {
            Ok(0) => {}
            Ok(entries) => tracing::info!(consumer, entries, "recorded {entries} reclaimed entries"),
            Err(error) => {
                tracing::warn!(consumer, "reclaiming: {error}");
                link.broken();
            }
        }
        pause(interval, &stop).await;
    }
    leave(&context, &consumer).await;
}

/// One walk over the pending entries list to its end; an empty page is not the end.
async fn round(
    context: &Context,
    link: &mut Link<'_>,
    consumer: &str,
    reclaim_after: Duration,
    stop: &CancellationToken,
) -> Result<usize, RedisError> {
    let mut from = "-".to_owned();
    let mut recorded = 0;
    loop {
        let Some((redis, epoch)) = link.epoch(stop).await? else { return Ok(recorded) };
        if stop.is_cancelled() {
            return Ok(recorded);
        }
        let (page, next) = match stream::reclaim(&redis, consumer, reclaim_after, &from).await {
            Err(error @ (RedisError::NoGroup(_) | RedisError::WrongType(_))) => {
                context.fence.redis_failed(&epoch, &error);
                return Ok(recorded);
            }
            page => page?,
        };
        if !page.deleted.is_empty() {
            report_deleted(context, &redis, page.deleted.len()).await?;
        }
        if !page.entries.is_empty() {
            let handed = Handed::new(epoch, page.entries, false);
            let entries = handed.len();
            match record(link, &redis, handed).await? {
                Ended::All(ended) if acknowledge(context, &redis, &ended).await? => {
                    recorded += entries;
                }
                Ended::All(_) | Ended::Fenced => return Ok(recorded),
                Ended::Failed(why) => {
                    tracing::warn!(consumer, "recording reclaimed entries has to wait: {why}");
                    return Ok(recorded);
                }
            }
        }
        let Some(next) = next else { return Ok(recorded) };
        from = next;
    }
}
