//! Reads the numbers that nothing counts as it happens: the state of the stores at the moment when the metrics are asked
//! for.

use futures_util::future::join_all;

use crate::config;
use crate::fence::Fence;
use crate::fence::store_status::Stores;
use crate::metrics::{self, Gauge, count_as_f64};
use crate::orders::stream_status::{self, GROUP, StreamNumbers};
use crate::postgres::Postgres;

/// What the gauges are read from.
pub struct Sources<'a> {
    /// Of each partition.
    pub stores: Vec<Stores>,
    pub postgres: &'a Postgres,
    /// `None` in a process that takes no claims.
    pub claims: Option<ClaimGauges>,
}

/// The gauges of a process that takes claims.
#[derive(Clone, Copy)]
pub struct ClaimGauges {
    pub is_ready: bool,
    pub max_backlog: u64,
}

/// Sets the gauges. A store that does not answer within `PROBE_INTERVAL` leaves NaN.
pub async fn read(from: Sources<'_>) {
    if let Some(ClaimGauges { is_ready, max_backlog }) = from.claims {
        metrics::READY.set_bool(is_ready);
        metrics::BACKLOG_MAX.set_count(max_backlog);
    }
    let fences = || from.stores.iter().map(Stores::fence);
    metrics::FENCE_UP.set_bool(fences().all(|fence| fence.session().is_ok()));
    for fence in fences() {
        let (number, session) = (fence.partition().to_string(), fence.session());
        metrics::PARTITION_UP.set_bool(&[&number], session.is_ok());
        if let Ok(session) = session {
            metrics::FENCE_EPOCH.set_count(&[&number], session.number());
        }
    }
    metrics::BACKLOG_EVENTS.set_count(fences().map(Fence::backlog).sum());
    for (store, free_bytes) in from.stores.iter().flat_map(Stores::free_bytes) {
        metrics::DISK_FREE.set_count(&[store], free_bytes);
    }
    read_pool(from.postgres);
    tokio::join!(read_streams(&from.stores), read_queues(&from.stores));
}

fn read_pool(postgres: &Postgres) {
    let pool = postgres.pool.current();
    let (open, idle) = (u64::from(pool.size()), pool.num_idle() as u64);
    metrics::POOL_CONNECTIONS.set_count(&["busy"], open.saturating_sub(idle));
    metrics::POOL_CONNECTIONS.set_count(&["idle"], idle);
    metrics::POOL_MAX.set_count(pool.options().get_max_connections().into());
}

async fn read_streams(stores: &[Stores]) {
    let streams = join_all(stores.iter().map(read_stream)).await;
    // One stream that cannot be read makes the sum unknown.
    let streams: Option<Vec<StreamNumbers>> = streams.into_iter().collect();
    let oldest =
        streams.as_ref().map(|streams| streams.iter().map(|stream| stream.oldest).max().unwrap_or_default());
    metrics::BACKLOG_OLDEST.set(oldest.map_or(f64::NAN, |oldest| oldest.as_secs_f64()));
    let workers =
        streams.and_then(|streams| streams.iter().map(|stream| stream.workers).sum::<Option<u64>>());
    metrics::WORKER_CONNECTIONS.set(workers.map_or(f64::NAN, count_as_f64));
}

async fn read_stream(stores: &Stores) -> Option<StreamNumbers> {
    let read = tokio::time::timeout(config::PROBE_INTERVAL, stream_status::numbers(stores.fence())).await;
    let read = read.ok().and_then(Result::ok);
    let stream = read.as_ref();
    let key = stores.stream_key();
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
    read
}

async fn read_queues(stores: &[Stores]) {
    // They are in Postgres, which all partitions share.
    let Some(stores) = stores.first() else { return };
    let queues = stores.queues().await.ok();
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
