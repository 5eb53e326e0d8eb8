//! Every metric with its name, unit and help text. Counters belong to this process and start at 0. The callers count;
//! `http` serves the text.

pub mod readings;

use std::sync::OnceLock;

use ::metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use anyhow::anyhow;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use readings::Readings;

pub static FENCE_UP: Gauge = Gauge {
    name: "seckill_fence_up",
    unit: Unit::Count,
    help: "1 while claims are accepted, 0 while Redis and Postgres may disagree",
};
pub static FENCE_EPOCH: Gauge = Gauge {
    name: "seckill_fence_epoch",
    unit: Unit::Count,
    help: "Number of the agreement between Redis and Postgres; each rebuild increases it by one",
};
pub static BACKLOG_EVENTS: Gauge = Gauge {
    name: "seckill_backlog_events",
    unit: Unit::Count,
    help: "Order events that are not recorded yet",
};
pub static OUTBOX_ROWS: Gauge = Gauge {
    name: "seckill_outbox_rows",
    unit: Unit::Count,
    help: "Units that wait for their release to stock; NaN while Postgres does not answer",
};
pub static OUTBOX_OLDEST: Gauge = Gauge {
    name: "seckill_outbox_oldest_seconds",
    unit: Unit::Seconds,
    help: "How long the oldest unit has waited for its release to stock, 0 for none; NaN while Postgres does not answer",
};
pub static ORDERS_RESERVED: Gauge = Gauge {
    name: "seckill_orders_reserved",
    unit: Unit::Count,
    help: "Orders that wait for their confirm; NaN while Postgres does not answer",
};
pub static SWEEPER_LAG: Gauge = Gauge {
    name: "seckill_sweeper_lag_seconds",
    unit: Unit::Seconds,
    help: "How long the oldest order past its time to pay has waited for the sweeper, 0 for none; \
           NaN while Postgres does not answer",
};
pub static WAITLIST_WAITING: Gauge = Gauge {
    name: "seckill_waitlist_waiting",
    unit: Unit::Count,
    help: "Users in the waiting lists of all coupons, at most a second old",
};
pub static POSTGRES_UP: Gauge = Gauge {
    name: "seckill_postgres_up",
    unit: Unit::Count,
    help: "1 while Postgres answers; without it claims are accepted until the backlog is full",
};
pub static APPENDFSYNC_ALWAYS: Gauge = Gauge {
    name: "seckill_redis_appendfsync_always",
    unit: Unit::Count,
    help: "1 if Redis makes a claim durable before it is answered (appendonly yes, appendfsync always), \
           0 if not or if the settings cannot be read",
};
pub static RECONCILE_LAST: Gauge = Gauge {
    name: "seckill_reconcile_last_seconds",
    unit: Unit::Seconds,
    help: "Time of the last full comparison in seconds since 1970; 0 for never",
};

pub static CLAIMS: CounterBy = CounterBy {
    name: "seckill_claims_total",
    help: "Claims by outcome; no-answer means that it is unknown whether the claim was made",
    label: "outcome",
    values: &[
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
    ],
};
pub static TRANSITION_FAILURES: CounterBy = CounterBy {
    name: "seckill_transition_failures_total",
    help: "Confirms, cancels and revocations that were answered 503 or 500, by reason",
    label: "reason",
    values: &["fence-down", "fenced", "queue-full", "late", "no-answer", "redis", "postgres"],
};
pub static REBUILDS: CounterBy = CounterBy {
    name: "seckill_fence_rebuilds_total",
    help: "Rebuilds of Redis from Postgres by cause",
    label: "cause",
    values: &["first", "redis", "marker", "stream", "scripts", "postgres", "loss", "ordered"],
};
pub static DRIFT: GaugeBy = GaugeBy {
    name: "seckill_reconcile_drift",
    help: "Differences between Redis and Postgres in the last full comparison",
    label: "kind",
    values: DRIFT_KINDS,
};
pub static DRIFT_TOTAL: CounterBy = CounterBy {
    name: "seckill_reconcile_drift_total",
    help: "Differences between Redis and Postgres in all comparisons",
    label: "kind",
    values: DRIFT_KINDS,
};
pub static DELETED_ENTRIES: Counter = Counter {
    name: "seckill_deleted_entries_total",
    help: "Pending entries that were deleted or trimmed from the stream before they were acknowledged",
};
pub static DEAD_LETTERS: Counter =
    Counter { name: "seckill_dead_letters_total", help: "Order events that can never be recorded" };
pub static ORDERS_RECORDED: Counter =
    Counter { name: "seckill_orders_recorded_total", help: "Orders written to Postgres" };
pub static ORDERS_CONFIRMED: Counter =
    Counter { name: "seckill_orders_confirmed_total", help: "Reserved orders that were confirmed" };
pub static ORDERS_CANCELLED: Counter =
    Counter { name: "seckill_orders_cancelled_total", help: "Reserved orders that were cancelled" };
pub static ORDERS_REVOKED: Counter =
    Counter { name: "seckill_orders_revoked_total", help: "Confirmed orders that the admin ended" };
pub static REFUNDS_DUE: Counter = Counter {
    name: "seckill_refunds_due_total",
    help: "Confirms that came after the time to pay; a repeat counts again",
};
pub static ORDERS_EXPIRED: Counter =
    Counter { name: "seckill_orders_expired_total", help: "Reserved orders that were not confirmed in time" };
pub static UNITS_RETURNED: Counter =
    Counter { name: "seckill_units_returned_total", help: "Units that were released to stock in Redis" };

pub static WAITLIST_JOINED: Counter =
    Counter { name: "seckill_waitlist_joined_total", help: "Places taken in waiting lists" };
pub static WAITLIST_LEFT: Counter =
    Counter { name: "seckill_waitlist_left_total", help: "Places that users gave up" };
pub static WAITLIST_SERVED: Counter =
    Counter { name: "seckill_waitlist_served_total", help: "Units that went to users in waiting lists" };

const DRIFT_KINDS: &[&str] =
    &["lost_event", "missing_claim", "missed_release", "stock_drift", "definition", "waitlist"];
const GAUGES: [&Gauge; 11] = [
    &FENCE_UP,
    &FENCE_EPOCH,
    &BACKLOG_EVENTS,
    &OUTBOX_ROWS,
    &OUTBOX_OLDEST,
    &ORDERS_RESERVED,
    &SWEEPER_LAG,
    &WAITLIST_WAITING,
    &POSTGRES_UP,
    &APPENDFSYNC_ALWAYS,
    &RECONCILE_LAST,
];
const COUNTERS: [&Counter; 12] = [
    &DELETED_ENTRIES,
    &DEAD_LETTERS,
    &ORDERS_RECORDED,
    &ORDERS_CONFIRMED,
    &ORDERS_CANCELLED,
    &ORDERS_EXPIRED,
    &ORDERS_REVOKED,
    &REFUNDS_DUE,
    &UNITS_RETURNED,
    &WAITLIST_JOINED,
    &WAITLIST_LEFT,
    &WAITLIST_SERVED,
];
const COUNTERS_BY: [&CounterBy; 4] = [&CLAIMS, &TRANSITION_FAILURES, &REBUILDS, &DRIFT_TOTAL];

static EXPORTER: OnceLock<PrometheusHandle> = OnceLock::new();

/// A number that goes up and down.
pub struct Gauge {
    name: &'static str,
    unit: Unit,
    help: &'static str,
}

/// Gauges that differ in the value of a label.
pub struct GaugeBy {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: &'static [&'static str],
}

/// A number that only grows.
pub struct Counter {
    name: &'static str,
    help: &'static str,
}

/// Counters that differ in the value of a label.
pub struct CounterBy {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: &'static [&'static str],
}

impl Gauge {
    /// `None` if the value is unknown.
    #[must_use]
    pub fn read(&self, readings: &Readings) -> Option<f64> {
        readings.value(self.name)
    }

    /// NaN says that the value is unknown.
    pub fn set(&self, value: f64) {
        gauge!(self.name).set(value);
    }

    pub fn set_bool(&self, value: bool) {
        self.set(f64::from(u8::from(value)));
    }

    pub fn set_count(&self, count: u64) {
        self.set(count_as_f64(count));
    }
}

impl GaugeBy {
    /// Its value for each value of the label.
    pub fn read(&self, readings: &Readings) -> impl Iterator<Item = (&'static str, u64)> {
        self.values.iter().map(|value| (*value, readings.count(self.name, self.label, value)))
    }

    /// `value` is one of the label's values.
    pub fn set_count(&self, value: &'static str, count: u64) {
        debug_assert!(self.values.contains(&value), "{}: {value}", self.name);
        gauge!(self.name, self.label => value).set(count_as_f64(count));
    }
}

impl Counter {
    pub fn add(&self, count: u64) {
        counter!(self.name).increment(count);
    }
}

impl CounterBy {
    /// Its value for each value of the label.
    pub fn read(&self, readings: &Readings) -> impl Iterator<Item = (&'static str, u64)> {
        self.values.iter().map(|value| (*value, readings.count(self.name, self.label, value)))
    }

    /// `value` is one of the label's values.
    pub fn add(&self, value: &'static str, count: u64) {
        debug_assert!(self.values.contains(&value), "{}: {value}", self.name);
        counter!(self.name, self.label => value).increment(count);
    }
}

/// Installs the recorder of this process, with every metric at 0. Counts before this call are lost.
///
/// # Errors
/// When a recorder is installed already.
pub fn install() -> anyhow::Result<()> {
    let recorder = PrometheusBuilder::new().build_recorder();
    EXPORTER.set(recorder.handle()).map_err(|_| anyhow!("metrics are installed once"))?;
    ::metrics::set_global_recorder(recorder).map_err(|error| anyhow!("metrics: {error}"))?;
    for gauge in GAUGES {
        describe_gauge!(gauge.name, gauge.unit, gauge.help);
        gauge.set(0.0);
    }
    for counter in COUNTERS {
        describe_counter!(counter.name, Unit::Count, counter.help);
        counter.add(0);
    }
    for by in COUNTERS_BY {
        describe_counter!(by.name, Unit::Count, by.help);
        by.values.iter().for_each(|value| by.add(value, 0));
    }
    describe_gauge!(DRIFT.name, Unit::Count, DRIFT.help);
    DRIFT.values.iter().for_each(|value| DRIFT.set_count(value, 0));
    Ok(())
}

/// All metrics in the Prometheus text format; empty without [`install`].
#[must_use]
pub fn render() -> String {
    EXPORTER.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// A count as the value of a gauge.
#[must_use]
pub fn count_as_f64(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let number = count as f64;
    number
}
