//! Orders that other processes record. Their notices come over a session that listens while requests wait. A notice may
//! be lost: a slow poll reads all orders that requests wait for.

use tokio::time::{Instant, MissedTickBehavior};

use super::Waiting;
use crate::config;
use crate::postgres::notices::Listener;
use crate::postgres::{Postgres, PostgresError, orders};

/// Reads the rows of orders as soon as a notice names them, and every `WAITING_ORDERS_POLL` those of all. Never returns.
pub async fn read_rows(waiting: &Waiting, postgres: &Postgres) {
    let mut polls = tokio::time::interval(config::WAITING_ORDERS_POLL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (ids, found_by) = tokio::select! {
            () = waiting.to_read.notified() => (waiting.take_marked(), "notice"),
            _ = polls.tick() => (waiting.all(), "poll"),
        };
        for chunk in ids.chunks(config::RECORD_BATCH_MAX_EVENTS) {
            match orders::get_many(&postgres.pool, chunk).await {
                Ok(rows) => waiting.wake(&rows, found_by),
                Err(error) => tracing::debug!("rows of {} waiting orders: {error}", chunk.len()),
            }
        }
    }
}

/// Hears notices while requests wait. Never returns.
pub async fn listen(waiting: &Waiting, postgres: &Postgres) {
    loop {
        while waiting.all().is_empty() {
            waiting.begun.notified().await;
        }
        let heard = match postgres.notices.listen().await {
            Ok(mut listener) => {
                // Notices that were sent before the session was open were not heard.
                waiting.mark_all();
                hear(waiting, &mut listener).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = heard {
            tracing::debug!("no notices of recorded orders, only the poll: {error}");
            tokio::time::sleep(config::BACKOFF_MAX).await;
        }
    }
}

/// Hears notices as long as requests wait: looks for one every `NOTICES_SESSION_LINGER`.
async fn hear(waiting: &Waiting, listener: &mut Listener) -> Result<(), PostgresError> {
    let mut leave_at = Instant::now() + config::NOTICES_SESSION_LINGER;
    loop {
        tokio::select! {
            notice = listener.next() => waiting.mark(&notice?),
            () = tokio::time::sleep_until(leave_at) => {
                if waiting.all().is_empty() {
                    return Ok(());
                }
                leave_at = Instant::now() + config::NOTICES_SESSION_LINGER;
            }
        }
    }
}
