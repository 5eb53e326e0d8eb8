//! Reads the numbers that nothing counts as it happens: the state of the stores at the moment when the metrics are asked
//! for.

use std::sync::Arc;

use futures_util::future::join_all;

use super::Api;
use crate::config;
use crate::metrics::{self, Gauge, count_as_f64};
use crate::orders::stream_status::{self, GROUP, StreamNumbers};
use crate::partitions::PartitionFunctions;

/// Sets the gauges. A store that does not answer within `PROBE_INTERVAL` leaves NaN.
pub async fn read(api: &Api) {
    let partitions = api.partitions.all();
    metrics::READY.set_bool(api.partitions.taking_claims().is_ok());
    metrics::FENCE_UP.set_bool(partitions.iter().all(|partition| partition.fence.session().is_ok()));
    for partition in &partitions {
        let number = partition.fence.partition().to_string();
        let session = partition.fence.session();
        metrics::PARTITION_UP.set_bool(&[&number], session.is_ok());
        if let Ok(session) = session {
            metrics::FENCE_EPOCH.set_count(&[&number], session.number());
        }
    }
    metrics::BACKLOG_EVENTS.set_count(partitions.iter().map(|partition| partition.fence.backlog()).sum());
    metrics::BACKLOG_MAX.set_count(api.max_backlog);
    for (store, free_bytes) in partitions.iter().flat_map(|partition| partition.stores.free_bytes()) {
        metrics::DISK_FREE.set_count(&[store], free_bytes);
    }
    read_pool(api);
    tokio::join!(read_streams(&partitions), read_queues(&partitions));
}

fn read_pool(api: &Api) {
    let pool = &api.postgres.pool;
    let (open, idle) = (u64::from(pool.size()), pool.num_idle() as u64);
    metrics::POOL_CONNECTIONS.set_count(&["busy"], open.saturating_sub(idle));
    metrics::POOL_CONNECTIONS.set_count(&["idle"], idle);
    metrics::POOL_MAX.set_count(config::POSTGRES_POOL_CONNECTIONS.into());
}

async fn read_streams(partitions: &[Arc<PartitionFunctions>]) {
    let streams = join_all(partitions.iter().map(|partition| read_stream(partition))).await;
    // One stream that cannot be read makes the sum unknown.
    let streams: Option<Vec<StreamNumbers>> = streams.into_iter().collect();
    let oldest =
        streams.as_ref().map(|streams| streams.iter().map(|stream| stream.oldest).max().unwrap_or_default());
    metrics::BACKLOG_OLDEST.set(oldest.map_or(f64::NAN, |oldest| oldest.as_secs_f64()));
    let workers =
        streams.and_then(|streams| streams.iter().map(|stream| stream.workers).sum::<Option<u64>>());
    metrics::WORKER_CONNECTIONS.set(workers.map_or(f64::NAN, count_as_f64));
}

async fn read_stream(partition: &PartitionFunctions) -> Option<StreamNumbers> {
    let read = tokio::time::timeout(config::PROBE_INTERVAL, stream_status::numbers(&partition.fence)).await;
    let read = read.ok().and_then(Result::ok);
    let stream = read.as_ref();
    let key = partition.stores.stream_key();
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

async fn read_queues(partitions: &[Arc<PartitionFunctions>]) {
    // They are in Postgres, which all partitions share.
    let Some(partition) = partitions.first() else { return };
    let queues = partition.stores.queues().await.ok();
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
