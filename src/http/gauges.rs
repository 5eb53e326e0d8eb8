//! Reads the numbers that nothing counts as it happens: the state of the stores at the moment when the metrics are asked
//! for.

use crate::claims::batcher::Batcher;
use crate::config;
use crate::fence::Fence;
use crate::fence::store_status::Stores;
use crate::metrics::{self, Gauge, count_as_f64};
use crate::orders::stream_status::{self, GROUP};
use crate::postgres::Postgres;

/// What the gauges are read from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    pub fence: &'a Fence,
    pub stores: &'a Stores,
    pub postgres: &'a Postgres,
    /// `None` in a process that takes no claims.
    pub batcher: Option<&'a Batcher>,
}

/// Sets the gauges. A store that does not answer within `PROBE_INTERVAL` leaves NaN.
pub async fn read(from: Sources<'_>) {
    if let Some(batcher) = from.batcher {
        metrics::READY.set_bool(batcher.taking_claims().is_ok());
        metrics::BACKLOG_MAX.set_count(batcher.max_backlog());
    }
    let session = from.fence.session();
    metrics::FENCE_UP.set_bool(session.is_ok());
    if let Ok(session) = session {
        metrics::FENCE_EPOCH.set_count(session.number());
    }
    metrics::BACKLOG_EVENTS.set_count(from.fence.backlog());
    for (store, free_bytes) in from.stores.free_bytes() {
        metrics::DISK_FREE.set_count(&[store], free_bytes);
    }
    read_pool(from);
    tokio::join!(read_stream(from), read_queues(from));
}

fn read_pool(from: Sources<'_>) {
    let pool = &from.postgres.pool;
    let (open, idle) = (u64::from(pool.size()), pool.num_idle() as u64);
    metrics::POOL_CONNECTIONS.set_count(&["busy"], open.saturating_sub(idle));
    metrics::POOL_CONNECTIONS.set_count(&["idle"], idle);
    metrics::POOL_MAX.set_count(config::POSTGRES_POOL_CONNECTIONS.into());
}

async fn read_stream(from: Sources<'_>) {
    let read = tokio::time::timeout(config::PROBE_INTERVAL, stream_status::numbers(from.fence)).await;
    let stream = read.ok().and_then(Result::ok);
    let stream = stream.as_ref();
    let key = from.stores.stream_key();
    for (gauge, number) in [
        (&metrics::STREAM_LENGTH, stream.map(|stream| stream.length)),
        (&metrics::STREAM_GROUPS, stream.map(|stream| stream.groups)),
    ] {
        gauge.set(&[key], or_nan(number));
    }
    for (gauge, number) in [
        (&metrics::GROUP_LAG, stream.map(|stream| stream.lag)),
        (&metrics::GROUP_PENDING, stream.map(|stream| stream.pending)),
        (&metrics::GROUP_CONSUMERS, stream.map(|stream| stream.consumers)),
    ] {
        gauge.set(&[key, GROUP], or_nan(number));
    }
    metrics::BACKLOG_OLDEST.set(stream.map_or(f64::NAN, |stream| stream.oldest.as_secs_f64()));
    metrics::WORKER_CONNECTIONS.set(stream.and_then(|stream| stream.workers).map_or(f64::NAN, count_as_f64));
}

async fn read_queues(from: Sources<'_>) {
    let queues = from.stores.queues().await.ok();
    let queues = queues.as_ref();
    let set = |gauge: &Gauge, number: Option<i64>| gauge.set(or_nan(number));
    set(&metrics::OUTBOX_ROWS, queues.map(|queues| queues.outbox.rows));
    set(&metrics::OUTBOX_OLDEST, queues.map(|queues| queues.outbox.oldest_seconds));
    set(&metrics::SWEEPER_LAG, queues.map(|queues| queues.overdue.oldest_seconds));
    set(&metrics::ORDERS_RESERVED, queues.map(|queues| queues.reserved));
    set(&metrics::DEAD_LETTERS_OPEN, queues.map(|queues| queues.dead_letters));
}

fn or_nan(number: Option<i64>) -> f64 {
    number.map_or(f64::NAN, |number| count_as_f64(number.unsigned_abs()))
}
