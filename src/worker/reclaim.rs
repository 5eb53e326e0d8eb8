//! Takes over entries that stayed unacknowledged for too long: their worker crashed, or is so slow that
//! doing its work twice is better than waiting (it is safe).

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::record::{Ended, Handed, acknowledge, record};
use super::{Context, Hindrance, Link, leave, pause, report_deleted};
use crate::config;
use crate::redis::RedisError;
use crate::redis::reclaim::{Ages, reclaim};

pub async fn run(context: Arc<Context>, consumer: String, reclaim_after: Duration, stop: CancellationToken) {
    let mut link = Link::new(&context);
    let mut ages = Ages::default();
    let interval = (reclaim_after / 4).clamp(config::BACKOFF_MIN, config::BACKOFF_MAX);
    let mut hindrance = Hindrance::default();
    while !stop.is_cancelled() {
        match round(&context, &mut link, &mut ages, &consumer, reclaim_after, &stop).await {
            Ok(Round { recorded, hindered: None }) => {
                if recorded == 0 {
                    hindrance.note_nothing_to_do(&consumer);
                } else {
                    hindrance.is_over(&consumer);
                    tracing::info!(consumer, entries = recorded, "recorded {recorded} reclaimed entries");
                }
            }
            Ok(Round { hindered: Some(why), .. }) => hindrance.note(&consumer, &why),
            Err(error) => {
                hindrance.note(&consumer, &error.to_string());
                link.broken();
            }
        }
        pause(interval, &stop).await;
    }
    leave(&context, &consumer).await;
}

/// What came of one walk.
#[derive(Default)]
struct Round {
    recorded: usize,
    /// Why Postgres records nothing now.
    hindered: Option<String>,
}

/// One walk over the pending entries list to its end; an empty page is not the end.
async fn round(
    context: &Context,
    link: &mut Link<'_>,
    ages: &mut Ages,
    consumer: &str,
    reclaim_after: Duration,
    stop: &CancellationToken,
) -> Result<Round, RedisError> {
    let mut from = "-".to_owned();
    ages.begin_walk();
    let mut done = Round::default();
    loop {
        let Some((redis, epoch)) = link.epoch(stop).await? else { return Ok(done) };
        if stop.is_cancelled() {
            return Ok(done);
        }
        let (page, next) = match reclaim(&redis, ages, consumer, reclaim_after, &from).await {
            Err(error @ (RedisError::NoGroup(_) | RedisError::WrongType(_))) => {
                context.fence.redis_failed(&epoch, &error);
                return Ok(done);
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
                    done.recorded += entries;
                }
                Ended::All(_) | Ended::Fenced => return Ok(done),
                Ended::Failed(why) => return Ok(Round { hindered: Some(why), ..done }),
            }
        }
        let Some(next) = next else {
            ages.end_walk();
            return Ok(done);
        };
        from = next;
    }
}
