//! Every metric with its name and help text. Counters belong to this process and start at 0. The callers count; `http`
//! serves the text. `docs/OPERATING.md` has the same list with what each is for. The names of the stream's metrics are
//! those of `redis_exporter`.

mod kinds;
use std::sync::OnceLock;

use anyhow::anyhow;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Registry, TextEncoder};

pub use self::kinds::{Counter, CounterBy, Gauge, GaugeBy, Histogram, HistogramBy, count_as_f64};
use self::kinds::{Label, Metric};

macro_rules! metrics {
    ($all:ident: $($constant:ident: $kind:ident = ($name:literal, $help:literal $(, $more:expr)* $(,)?);)+) => {
        $(pub static $constant: $kind = $kind::new($name, $help $(, $more)*);)+
        static $all: &[&dyn Metric] = &[$(&$constant),+];
    };
}

/// Upper bounds of the buckets, in seconds.
const LATENCY: &[f64] =
    &[0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// A row may be a long time late, for example after an outage of Postgres.
const WINDOW: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0];

const CLAIM_OUTCOMES: &[&str] = &[
    "accepted",
    "held",
    "sold-out",
    "limit-reached",
    "idempotency-key-required",
    "unknown-coupon",
    "not-started",
    "ended",
    "paused",
    "fence-down",
    "queue-full",
    "backlog-full",
    "late",
    "refused",
    "no-answer",
];
const CLAIM_ANSWERS: &[&str] = &["accepted", "recorded", "held", "refused", "unavailable"];
const SCRIPTS: &[&str] = &[
    "acknowledge",
    "claim",
    "publish",
    "record_wal_position",
    "release",
    "remove_consumer",
    "requeue",
    "take",
    "trim",
    "waitlist_join",
    "waitlist_leave",
    "waitlist_serve",
];
const TRANSACTIONS: &[&str] = &["record", "reject", "confirm", "cancel", "revoke", "expire", "join"];
pub const DRIFT_KINDS: &[&str] =
    &["lost_event", "missing_claim", "missed_release", "stock_drift", "definition", "waitlist"];
const REBUILD_CAUSES: &[&str] =
    &["first", "redis", "marker", "stream", "scripts", "postgres", "loss", "ordered"];
const TRANSITION_REASONS: &[&str] =
    &["fence-down", "fenced", "queue-full", "late", "no-answer", "redis", "postgres"];
const WAITERS_FOUND_BY: &[&str] = &["worker", "notice", "poll"];
const STATUS_CODES: &[&str] = &[
    "200", "201", "202", "204", "304", "400", "401", "404", "405", "408", "409", "412", "413", "415", "500",
    "503", "other",
];

metrics! {
    // A process that takes no claims has no value for these: 0 would raise alerts.
    OF_CLAIMS:
    READY: Gauge = (
        "seckill_ready",
        "1 while claims are accepted, as /readyz says: the fence is up, Redis accepts writes, the backlog is not full",
    );
    BACKLOG_MAX: Gauge = (
        "seckill_backlog_max_events",
        "The backlog above which claims are refused (SECKILL_MAX_BACKLOG)",
    );
}

metrics! {
    OF_EACH_PROCESS:
    // ---- whether the sale is healthy ----
    FENCE_UP: Gauge = (
        "seckill_fence_up",
        "1 while Redis and Postgres are known to agree in every partition; 0 while claims of one are refused",
    );
    PARTITION_UP: GaugeBy = (
        "seckill_partition_up",
        "1 while Redis and Postgres are known to agree in the partition; its claims are refused while it is 0",
        &["partition"],
    );
    FENCE_EPOCH: GaugeBy = (
        "seckill_fence_epoch",
        "Number of the agreement between Redis and Postgres in the partition; each rebuild increases it by one",
        &["partition"],
    );
    REBUILDS: CounterBy = (
        "seckill_fence_rebuilds_total",
        "Rebuilds of Redis from Postgres by cause",
        Label::new("cause", REBUILD_CAUSES),
    );
    POSTGRES_UP: Gauge = (
        "seckill_postgres_up",
        "1 while Postgres answers; without it claims are accepted until the backlog is full",
    );
    APPENDFSYNC_ALWAYS: Gauge = (
        "seckill_redis_appendfsync_always",
        "1 if Redis makes a claim durable before it is answered (appendonly yes, appendfsync always), \
         0 if not or if the settings cannot be read",
    );
    DRIFT: GaugeBy = (
        "seckill_reconcile_drift",
        "Differences between Redis and Postgres in the last full comparison of the partition, by kind",
        &["kind", "partition"],
    );
    DRIFT_TOTAL: CounterBy = (
        "seckill_reconcile_drift_total",
        "Differences between Redis and Postgres in all comparisons, by kind",
        Label::new("kind", DRIFT_KINDS),
    );
    RECONCILE_LAST: GaugeBy = (
        "seckill_reconcile_last_timestamp_seconds",
        "Time of the last full comparison of the partition in seconds since 1970; 0 for never",
        &["partition"],
    );
    TASK_RESTARTS: Counter = (
        "seckill_task_restarts_total",
        "Tasks of the program that ended early and were started again; the log names them",
    );
    DISK_FREE: GaugeBy = (
        "seckill_disk_free_bytes",
        "Free space on the disk of an embedded store; absent for other stores",
        &["store"],
    );

    // ---- claims and requests ----
    CLAIMS: CounterBy = (
        "seckill_claims_total",
        "Claims by outcome; no-answer means that it is unknown whether the claim was made",
        Label::new("outcome", CLAIM_OUTCOMES),
    );
    MOVES: Counter = ("seckill_moves_total", "Moves of units from one share of a coupon to another");
    MOVED_UNITS: Counter = ("seckill_moved_units_total", "Units that were moved from one share of a coupon to another");
    CLAIM_DURATION: HistogramBy = (
        "seckill_claim_duration_seconds",
        "Time from the read claim to its answer, by answer: accepted (202), recorded (201, after the row), held (200), \
         refused (4xx), unavailable (5xx)",
        Label::new("answer", CLAIM_ANSWERS),
        LATENCY,
    );
    HTTP_REQUESTS: CounterBy = (
        "seckill_http_requests_total",
        "Answered requests of the API (/v1/) by status code",
        Label::new("code", STATUS_CODES),
    );
    EVALSHA_DURATION: HistogramBy = (
        "seckill_evalsha_duration_seconds",
        "Time from sending a script call to its reply from Redis, by script",
        Label::new("script", SCRIPTS),
        LATENCY,
    );

    // ---- from the claim to the row ----
    BACKLOG_EVENTS: Gauge = ("seckill_backlog_events", "Order events that are not acknowledged yet");
    BACKLOG_OLDEST: Gauge = (
        "seckill_backlog_oldest_seconds",
        "Age of the oldest order event that is not acknowledged, 0 for none; NaN while Redis answers for no partition",
    );
    STREAM_LENGTH: GaugeBy = (
        "seckill_stream_length",
        "Entries of the order stream, acknowledged ones included; NaN while Redis does not answer",
        &["stream"],
    );
    STREAM_GROUPS: GaugeBy = (
        "seckill_stream_groups",
        "Consumer groups of the order stream, those of other programs included; NaN while Redis does not answer",
        &["stream"],
    );
    GROUP_LAG: GaugeBy = (
        "seckill_stream_group_lag",
        "Entries that wait to be delivered to a worker; NaN while Redis does not answer",
        &["stream", "group"],
    );
    GROUP_PENDING: GaugeBy = (
        "seckill_stream_group_messages_pending",
        "Entries that were delivered to a worker and are not acknowledged; NaN while Redis does not answer",
        &["stream", "group"],
    );
    GROUP_CONSUMERS: GaugeBy = (
        "seckill_stream_group_consumers",
        "Consumers in the group, those of ended processes included; NaN while Redis does not answer",
        &["stream", "group"],
    );
    WORKER_CONNECTIONS: Gauge = (
        "seckill_worker_connections",
        "Connections to Redis of all workers that read a stream; NaN while Redis does not tell for any partition",
    );
    ORDERS_RECORDED: Counter = ("seckill_orders_recorded_total", "Orders written to Postgres");
    WINDOW_SECONDS: Histogram = (
        "seckill_window_seconds",
        "Time from an order event's entry in the stream (by Redis's clock) to the commit of its order (by this machine's)",
        WINDOW,
    );
    WAITERS_WOKEN: CounterBy = (
        "seckill_waiters_woken_total",
        "Requests whose order was recorded while they waited, by how this process found the row: a worker of its own, \
         a notice of another process, or the slow poll, which finds what no notice has told",
        Label::new("found_by", WAITERS_FOUND_BY),
    );
    TRANSACTION_DURATION: HistogramBy = (
        "seckill_transaction_duration_seconds",
        "Time from the begin to the commit of a transaction in Postgres, failures included, by kind",
        Label::new("kind", TRANSACTIONS),
        LATENCY,
    );
    POOL_CONNECTIONS: GaugeBy = (
        "seckill_postgres_pool_connections",
        "Connections of the pool for requests and probes, by state: busy or idle",
        &["state"],
    );
    POOL_MAX: Gauge = (
        "seckill_postgres_pool_max_connections",
        "The most connections that the pool for requests and probes opens",
    );
    DELETED_ENTRIES: Counter = (
        "seckill_deleted_entries_total",
        "Pending entries that were deleted or trimmed from the stream before they were acknowledged",
    );
    DEAD_LETTERS: Counter = ("seckill_dead_letters_total", "Order events that can never be recorded");
    DEAD_LETTERS_OPEN: Gauge = (
        "seckill_dead_letters_open",
        "Dead letters that are neither replayed nor discarded; NaN while Postgres does not answer",
    );

    // ---- the life of an order ----
    ORDERS_RESERVED: Gauge = (
        "seckill_orders_reserved",
        "Orders that wait for their confirm; NaN while Postgres does not answer",
    );
    ORDERS_CONFIRMED: Counter = ("seckill_orders_confirmed_total", "Reserved orders that were confirmed");
    ORDERS_CANCELLED: Counter = ("seckill_orders_cancelled_total", "Reserved orders that were cancelled");
    ORDERS_REVOKED: Counter = ("seckill_orders_revoked_total", "Confirmed orders that the admin ended");
    ORDERS_EXPIRED: Counter = ("seckill_orders_expired_total", "Reserved orders that were not confirmed in time");
    REFUNDS_DUE: Counter = (
        "seckill_refunds_due_total",
        "Confirms that came after the time to pay; a repeat counts again",
    );
    TRANSITION_FAILURES: CounterBy = (
        "seckill_transition_failures_total",
        "Confirms, cancels and revocations that were answered 503 or 500, by reason",
        Label::new("reason", TRANSITION_REASONS),
    );
    SWEEPER_LAG: Gauge = (
        "seckill_sweeper_lag_seconds",
        "How long the oldest order past its time to pay has waited for the sweeper, 0 for none; \
         NaN while Postgres does not answer",
    );
    OUTBOX_ROWS: Gauge = (
        "seckill_outbox_rows",
        "Units that wait for their release to stock; NaN while Postgres does not answer",
    );
    OUTBOX_OLDEST: Gauge = (
        "seckill_outbox_oldest_seconds",
        "How long the oldest unit has waited for its release to stock, 0 for none; NaN while Postgres does not answer",
    );
    UNITS_RETURNED: Counter = ("seckill_units_returned_total", "Units that were released to stock in Redis");
    WAITLIST_WAITING: GaugeBy = (
        "seckill_waitlist_waiting",
        "Users in the waiting lists of the partition's coupons, at most a second old",
        &["partition"],
    );
    WAITLIST_JOINED: Counter = ("seckill_waitlist_joined_total", "Places taken in waiting lists");
    WAITLIST_LEFT: Counter = ("seckill_waitlist_left_total", "Places that users gave up");
    WAITLIST_SERVED: Counter = ("seckill_waitlist_served_total", "Units that went to users in waiting lists");

    // ---- the program ----
    BUILD_INFO: GaugeBy = (
        "seckill_build_info",
        "1, with the version of the program as a label",
        &["version"],
    );
}

static REGISTRY: OnceLock<Registry> = OnceLock::new();

/// Whether a process takes claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Server,
    Worker,
}

/// Registers every metric of this process, at 0. Counts before this call are lost.
///
/// # Errors
/// When the metrics are installed already.
pub fn install(process: Process) -> anyhow::Result<()> {
    let registry = Registry::new();
    let of_claims = if process == Process::Server { OF_CLAIMS } else { &[] };
    OF_EACH_PROCESS.iter().chain(of_claims).try_for_each(|metric| metric.register(&registry))?;
    // Processor time, memory, open files and the time of the start, as every exporter names them.
    registry.register(Box::new(ProcessCollector::for_self()))?;
    BUILD_INFO.set(&[env!("CARGO_PKG_VERSION")], 1.0);
    REGISTRY.set(registry).map_err(|_| anyhow!("metrics are installed once"))
}

/// Shows a partition that starts, at 0: a value that is absent raises no alert.
pub fn add_partition(partition: &str) {
    for kind in DRIFT_KINDS {
        DRIFT.set_count(&[kind, partition], 0);
    }
    RECONCILE_LAST.set_count(&[partition], 0);
    WAITLIST_WAITING.set_count(&[partition], 0);
}

/// All metrics in the Prometheus text format; empty without [`install`].
#[must_use]
pub fn render() -> String {
    let families = REGISTRY.get().map(Registry::gather).unwrap_or_default();
    // Fails only for a metric without a name or a value.
    TextEncoder::new().encode_to_string(&families).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_can_be_registered_and_shows_what_it_counted() {
        CLAIMS.add("accepted", 1);
        install(Process::Server).unwrap();
        CLAIMS.add("accepted", 2);
        WINDOW_SECONDS.observe_all([3, 40].into_iter().map(std::time::Duration::from_millis));
        let text = render();
        for line in [
            "seckill_claims_total{outcome=\"accepted\"} 2",
            "seckill_claims_total{outcome=\"held\"} 0",
            "seckill_window_seconds_bucket{le=\"0.005\"} 1",
            "seckill_window_seconds_bucket{le=\"0.05\"} 2",
            "seckill_window_seconds_count 2",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
        }
        assert!(install(Process::Server).is_err(), "installed twice");
    }
}
