//! One consumer: reads new entries and records them. After any failure it starts from its own pending
//! entries, so that nothing it was handed is forgotten. Entries of others are `reclaim`'s affair.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::record::{Ended, record};
use super::{Context, Link, backoff, leave, pause, report_deleted};
use crate::redis::{RedisError, stream};

pub async fn run(context: Arc<Context>, consumer: String, stop: CancellationToken) {
    let mut link = Link::new(&context);
    let mut delays = backoff();
    let mut read_own_first = true;
    while !stop.is_cancelled() {
        match turn(&context, &mut link, &consumer, read_own_first, &stop).await {
            Ok(Turn::Empty) => read_own_first = false,
            Ok(Turn::Recorded) => delays = backoff(),
            Ok(Turn::Again) => read_own_first = true,
            Ok(Turn::Failed(why)) => {
                tracing::warn!(consumer, "recording has to wait: {why}");
                read_own_first = true;
                pause(delays.next().unwrap_or_default(), &stop).await;
            }
            Err(error) => {
                tracing::warn!(consumer, "consumer {consumer}: {error}");
                link.broken();
                read_own_first = true;
                pause(delays.next().unwrap_or_default(), &stop).await;
            }
        }
    }
    leave(&context, &consumer).await;
}

enum Turn {
    /// Nothing was there to read.
    Empty,
    Recorded,
    /// The agreement changed: read the marker anew, then the own pending entries.
    Again,
    /// Postgres cannot record now.
    Failed(String),
}

async fn turn(
    context: &Context,
    link: &mut Link<'_>,
    consumer: &str,
    read_own_first: bool,
    stop: &CancellationToken,
) -> Result<Turn, RedisError> {
    let Some((redis, epoch)) = link.epoch(stop).await? else { return Ok(Turn::Again) };
    if stop.is_cancelled() {
        return Ok(Turn::Again);
    }
    let read = if read_own_first {
        stream::read_pending(&redis, consumer, "0").await
    } else {
        stream::read_new(&redis, consumer).await
    };
    let read = match read {
        Err(error @ (RedisError::NoGroup(_) | RedisError::WrongType(_))) => {
            context.fence.redis_failed(&epoch, &error);
            return Ok(Turn::Again);
        }
        read => read?,
    };
    if !read.deleted.is_empty() {
        report_deleted(context, &redis, read.deleted.len()).await?;
        return Ok(Turn::Again);
    }
    if read.entries.is_empty() {
        return Ok(Turn::Empty);
    }
    Ok(match record(link, &redis, &epoch, &read.entries).await? {
        Ended::All => Turn::Recorded,
        Ended::Fenced => Turn::Again,
        Ended::Failed(why) => Turn::Failed(why),
    })
}
