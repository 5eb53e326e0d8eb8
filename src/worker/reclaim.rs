//! Reclaims entries that stay unacknowledged for too long, and records them: their worker has crashed or is very slow.
//! It is safe that two workers record the same entry.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::connections::Connections;
use super::context::Context;
use super::pause::pause;
use super::record::{BatchOutcome, EventBatch, acknowledge, record};
use super::stall::Stall;
use crate::config;
use crate::redis::RedisError;
use crate::redis::reclaim::{Ages, reclaim};

/// Scans the pending entries list, with a pause after each scan, until `stop`; then leaves the group.
pub async fn run(context: Arc<Context>, consumer: String, reclaim_after: Duration, stop: CancellationToken) {
    let mut connections = Connections::new(&context);
    let mut ages = Ages::default();
    let interval = (reclaim_after / 4).clamp(config::BACKOFF_MIN, config::BACKOFF_MAX);
    let mut stall = Stall::default();
    while !stop.is_cancelled() {
        match scan_pending(&mut connections, &mut ages, &consumer, reclaim_after, &stop).await {
            Ok(Scan { recorded, failure: None }) => {
                if recorded == 0 {
                    stall.record_empty(&consumer);
                } else {
                    stall.record_success(&consumer);
                    tracing::info!(consumer, entries = recorded, "recorded {recorded} reclaimed entries");
                }
            }
            Ok(Scan { failure: Some(why), .. }) => stall.record_failure(&consumer, &why),
            Err(error) => {
                stall.record_failure(&consumer, &error.to_string());
                connections.disconnect();
            }
        }
        pause(interval, &stop).await;
    }
    context.leave_group(&consumer).await;
}

/// The result of one scan.
#[derive(Default)]
struct Scan {
    /// Entries recorded and acknowledged.
    recorded: usize,
    /// Why Postgres cannot record now.
    failure: Option<String>,
}

/// Scans the pending entries list once, to its end; an empty page is not the end.
async fn scan_pending(
    connections: &mut Connections<'_>,
    ages: &mut Ages,
    consumer: &str,
    reclaim_after: Duration,
    stop: &CancellationToken,
) -> Result<Scan, RedisError> {
    let context = connections.context;
    let mut from = "-".to_owned();
    ages.begin_scan();
    let mut scan = Scan::default();
    loop {
        let Some((redis, epoch)) = connections.redis(stop).await? else { return Ok(scan) };
        if stop.is_cancelled() {
            return Ok(scan);
        }
        let (page, next) = match reclaim(&redis, ages, consumer, reclaim_after, &from).await {
            Err(error @ (RedisError::NoGroup(_) | RedisError::WrongType(_) | RedisError::Moved(_))) => {
                context.fence.redis_failed(&epoch, &error);
                return Ok(scan);
            }
            page => page?,
        };
        if !page.deleted.is_empty() {
            context.report_deleted(&redis, page.deleted.len()).await?;
        }
        if !page.entries.is_empty() {
            let batch = EventBatch::new(epoch, page.entries, false);
            let entries = batch.len();
            match record(connections, &redis, batch).await? {
                BatchOutcome::Recorded(recorded) if acknowledge(context, &redis, &recorded).await? => {
                    scan.recorded += entries;
                }
                BatchOutcome::Recorded(_) | BatchOutcome::Fenced => return Ok(scan),
                BatchOutcome::Failed(why) => return Ok(Scan { failure: Some(why), ..scan }),
            }
        }
        let Some(next) = next else {
            ages.end_scan();
            return Ok(scan);
        };
        from = next;
    }
}
