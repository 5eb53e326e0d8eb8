//! Once a second: trims the stream and removes dead consumers. Every process with workers does this. Several processes
//! may do this at the same time, because each step is a script that checks its own conditions.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::pause::pause;
use crate::config;
use crate::fence::Session;
use crate::redis::keys::GROUP;
use crate::redis::{RedisError, order_stream, scripts};

/// Runs every `HOUSEKEEPING_INTERVAL` until `stop`. `stream_keep` is the number of acknowledged entries that stay for
/// other consumer groups.
pub async fn run(context: Arc<Context>, stream_keep: u64, stop: CancellationToken) {
    let mut watermarks = TrimWatermarks::default();
    while !stop.is_cancelled() {
        context.wait_until_up(&stop).await;
        if let Ok(session) = context.fence.session()
            && let Err(error) = trim_and_prune(&session, stream_keep, &mut watermarks).await
        {
            context.fence.redis_failed(&session.epoch, &error);
        }
        pause(config::HOUSEKEEPING_INTERVAL, &stop).await;
    }
}

/// Trims entries that all groups have acknowledged, and removes consumers that are gone.
async fn trim_and_prune(
    session: &Session,
    stream_keep: u64,
    watermarks: &mut TrimWatermarks,
) -> Result<(), RedisError> {
    let groups = order_stream::groups(&session.redis).await?;
    if let Some(ours) = groups.iter().find(|group| group.name == GROUP) {
        let keep_from = watermarks.advance(ours.entries_read, &ours.last_delivered_id, stream_keep);
        let trimmed =
            scripts::trim(&session.redis, &session.ready, config::STREAM_TAIL_ENTRIES, &keep_from).await?;
        if let Some(entries @ 1..) = trimmed {
            tracing::debug!(entries, "trimmed {entries} acknowledged entries");
        }
    }
    for consumer in order_stream::consumers(&session.redis).await? {
        let is_gone = consumer.pending == 0 && consumer.idle_ms >= to_ms(config::CONSUMER_GONE_AFTER);
        if is_gone
            && scripts::remove_consumer(
                &session.redis,
                &session.ready,
                &consumer.name,
                config::CONSUMER_GONE_AFTER,
            )
            .await?
        {
            // In Redis 7.0 this may also remove a consumer that only waits for entries; its next read adds it again.
            let name = consumer.name;
            tracing::debug!(
                consumer = name,
                "removed consumer {name}: it has no pending entries and has not read lately"
            );
        }
    }
    Ok(())
}

fn to_ms(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Earlier positions of our group, oldest first: entries read and last delivered id. They show the id `stream_keep`
/// entries behind the group without a scan of the stream.
#[derive(Default)]
struct TrimWatermarks {
    earlier: VecDeque<(i64, String)>,
}

impl TrimWatermarks {
    /// Records the group's position and returns the lowest id to keep for other groups; `0-0` while fewer than
    /// `stream_keep` entries were read since the first position, or if Redis does not know how many.
    fn advance(&mut self, entries_read: Option<i64>, last_delivered_id: &str, stream_keep: u64) -> String {
        let keep = i64::try_from(stream_keep).unwrap_or(i64::MAX);
        let Some(read) = entries_read else { return "0-0".into() };
        if self.earlier.back().is_some_and(|(last, _)| *last > read) {
            self.earlier.clear(); // the group was created again
        }
        if self.earlier.back().is_none_or(|(last, _)| *last < read) {
            self.earlier.push_back((read, last_delivered_id.to_owned()));
        }
        while self.earlier.get(1).is_some_and(|(position, _)| read - position >= keep) {
            self.earlier.pop_front();
        }
        match self.earlier.front() {
            Some((position, id)) if read - position >= keep => id.clone(),
            _ => "0-0".into(),
        }
    }
}
