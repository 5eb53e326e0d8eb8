//! Once a second: returns units from the outbox, trims the stream, removes consumers that are gone.
//! Every process with workers does it; each step is a script that checks for itself.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Context, pause, wait_until_up};
use crate::config;
use crate::fence::{Session, wal_position};
use crate::orders::release::release;
use crate::postgres::outbox;
use crate::redis::keys::GROUP;
use crate::redis::scripts;
use crate::redis::{RedisError, order_stream};

pub async fn run(context: Arc<Context>, stream_keep: u64, stop: CancellationToken) {
    let mut marks = Marks::default();
    while !stop.is_cancelled() {
        wait_until_up(&context.fence, &stop).await;
        if let Ok(session) = context.fence.session() {
            return_units(&context, &session).await;
            let kept = keep_house(&session, stream_keep, &mut marks).await;
            if let Err(error) = kept {
                context.fence.redis_failed(&session.epoch, &error);
            }
        }
        tokio::select! {
            () = pause(config::HOUSEKEEPING_INTERVAL, &stop) => {}
            () = context.unit_waits.notified() => {}
        }
    }
}

/// Rule 5: the claims hash decides whether a unit goes back; the row goes once that is settled.
async fn return_units(context: &Context, session: &Session) {
    let rows = match outbox::oldest(&context.postgres.pool).await {
        Ok(rows) => rows,
        Err(error) => return tracing::debug!("outbox: {error}"),
    };
    if rows.is_empty() {
        return;
    }
    if let Err(error) = wal_position::record(&context.fence, session, &context.postgres).await {
        return tracing::debug!("outbox: {error}");
    }
    for row in rows {
        let field = row.claims_field();
        let released = release(&context.fence, session, &row.coupon, &field, row.order).await;
        if let Err(error) = released {
            return tracing::debug!("outbox: {error}");
        }
        if let Err(error) = outbox::remove(&context.postgres.pool, row.order).await {
            return tracing::debug!("outbox: {error}");
        }
    }
}

async fn keep_house(session: &Session, stream_keep: u64, marks: &mut Marks) -> Result<(), RedisError> {
    let groups = order_stream::groups(&session.redis).await?;
    if let Some(ours) = groups.iter().find(|group| group.name == GROUP) {
        let keep_from = marks.note(ours.entries_read, &ours.last_delivered_id, stream_keep);
        let trimmed =
            scripts::trim(&session.redis, &session.ready, config::STREAM_TAIL_ENTRIES, &keep_from).await?;
        if let Some(entries @ 1..) = trimmed {
            tracing::debug!(entries, "trimmed {entries} acknowledged entries");
        }
    }
    for consumer in order_stream::consumers(&session.redis).await? {
        let gone = consumer.pending == 0 && consumer.idle_ms >= to_ms(config::CONSUMER_GONE_AFTER);
        if gone
            && scripts::remove_consumer(
                &session.redis,
                &session.ready,
                &consumer.name,
                config::CONSUMER_GONE_AFTER,
            )
            .await?
        {
            // To Redis 7.0 one that waits for entries looks the same; its next read brings it back.
            let name = consumer.name;
            tracing::debug!(
                consumer = name,
                "removed consumer {name}, which holds nothing and was not seen lately"
            );
        }
    }
    Ok(())
}

fn to_ms(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Where our group stood earlier: the id that lies `stream_keep` entries behind it, without walking there.
#[derive(Default)]
struct Marks {
    earlier: VecDeque<(i64, String)>,
}

impl Marks {
    /// The lowest id to keep for other groups; `0-0` while we have not come that far.
    fn note(&mut self, entries_read: Option<i64>, last_delivered_id: &str, stream_keep: u64) -> String {
        let keep = i64::try_from(stream_keep).unwrap_or(i64::MAX);
        let Some(read) = entries_read else { return "0-0".into() };
        if self.earlier.back().is_some_and(|(last, _)| *last > read) {
            self.earlier.clear(); // the group was made anew
        }
        if self.earlier.back().is_none_or(|(last, _)| *last < read) {
            self.earlier.push_back((read, last_delivered_id.to_owned()));
        }
        while self.earlier.get(1).is_some_and(|(mark, _)| read - mark >= keep) {
            self.earlier.pop_front();
        }
        match self.earlier.front() {
            Some((mark, id)) if read - mark >= keep => id.clone(),
            _ => "0-0".into(),
        }
    }
}
