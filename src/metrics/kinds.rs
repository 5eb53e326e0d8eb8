//! The kinds of metrics, on top of the library `prometheus`. A metric gets its cells when it is registered: a count or an
//! observation is then a few atomic operations, without a lookup by name. Without registration it counts nothing.

use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Metric as _};
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, Result};

/// A metric that can be registered once.
pub trait Metric: Sync {
    /// # Errors
    /// If the name or a label is not valid, or another metric has the same name.
    fn register(&self, registry: &Registry) -> Result<()>;
}

/// A number that goes up and down. `NaN` says that the value is unknown.
pub struct Gauge {
    name: &'static str,
    help: &'static str,
    cell: OnceLock<prometheus::Gauge>,
}

/// Gauges that differ in the values of labels. The caller keeps the number of different values small.
pub struct GaugeBy {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    cells: OnceLock<GaugeVec>,
}

/// A number that only grows.
pub struct Counter {
    name: &'static str,
    help: &'static str,
    cell: OnceLock<IntCounter>,
}

/// Counters that differ in the value of a label. Each exists from the start, at 0.
pub struct CounterBy {
    name: &'static str,
    help: &'static str,
    by: Label,
    cells: OnceLock<Vec<IntCounter>>,
}

/// Durations in fixed buckets.
pub struct Histogram {
    name: &'static str,
    help: &'static str,
    buckets: &'static [f64],
    cell: OnceLock<prometheus::Histogram>,
}

/// Histograms that differ in the value of a label. Each exists from the start.
pub struct HistogramBy {
    name: &'static str,
    help: &'static str,
    by: Label,
    buckets: &'static [f64],
    cells: OnceLock<Vec<prometheus::Histogram>>,
}

/// A label and all its values.
pub struct Label {
    name: &'static str,
    values: &'static [&'static str],
}

impl Label {
    #[must_use]
    pub const fn new(name: &'static str, values: &'static [&'static str]) -> Self {
        Self { name, values }
    }

    fn cell<'a, T>(&self, cells: &'a OnceLock<Vec<T>>, value: &str) -> Option<&'a T> {
        let number = self.values.iter().position(|known| *known == value);
        debug_assert!(number.is_some(), "the label {} has no value {value}", self.name);
        cells.get()?.get(number?)
    }
}

impl Gauge {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, cell: OnceLock::new() }
    }

    /// `None` if the value is unknown.
    #[must_use]
    pub fn read(&self) -> Option<f64> {
        self.cell.get().map(prometheus::Gauge::get).filter(|value| !value.is_nan())
    }

    pub fn set(&self, value: f64) {
        if let Some(cell) = self.cell.get() {
            cell.set(value);
        }
    }

    pub fn set_bool(&self, value: bool) {
        self.set(f64::from(u8::from(value)));
    }

    pub fn set_count(&self, count: u64) {
        self.set(count_as_f64(count));
    }
}

impl GaugeBy {
    pub(super) const fn new(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, labels, cells: OnceLock::new() }
    }

    /// `None` if the value is unknown.
    #[must_use]
    pub fn read(&self, values: &[&str]) -> Option<f64> {
        let gauge = self.cells.get()?.get_metric_with_label_values(values).ok()?;
        Some(gauge.get()).filter(|value| !value.is_nan())
    }

    /// Sets the gauge of these values, one for each label.
    pub fn set(&self, values: &[&str], value: f64) {
        let gauge = self.cells.get().map(|cells| cells.get_metric_with_label_values(values));
        debug_assert!(!matches!(gauge, Some(Err(_))), "{}: {values:?}", self.name);
        if let Some(Ok(gauge)) = gauge {
            gauge.set(value);
        }
    }

    pub fn set_bool(&self, labels: &[&str], value: bool) {
        self.set(labels, f64::from(u8::from(value)));
    }

    pub fn set_count(&self, values: &[&str], count: u64) {
        self.set(values, count_as_f64(count));
    }
}

impl Counter {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, cell: OnceLock::new() }
    }

    pub fn add(&self, count: u64) {
        if let Some(cell) = self.cell.get() {
            cell.inc_by(count);
        }
    }
}

impl CounterBy {
    pub(super) const fn new(name: &'static str, help: &'static str, by: Label) -> Self {
        Self { name, help, by, cells: OnceLock::new() }
    }

    /// The value for each value of the label.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let cells = self.cells.get().into_iter().flatten();
        self.by.values.iter().copied().zip(cells.map(IntCounter::get))
    }

    /// `value` is one of the label's values.
    pub fn add(&self, value: &str, count: u64) {
        if let Some(cell) = self.by.cell(&self.cells, value) {
            cell.inc_by(count);
        }
    }

    /// As [`Self::add`]; counts any other value as `other`.
    pub fn add_or_other(&self, value: &str, count: u64) {
        self.add(if self.by.values.contains(&value) { value } else { "other" }, count);
    }
}

impl Histogram {
    pub(super) const fn new(name: &'static str, help: &'static str, buckets: &'static [f64]) -> Self {
        Self { name, help, buckets, cell: OnceLock::new() }
    }

    /// For each bucket its upper bound in seconds, and the number of durations up to it.
    #[must_use]
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let Some(cell) = self.cell.get() else { return Vec::new() };
        let metric = cell.metric();
        let buckets = metric.get_histogram().get_bucket();
        buckets.iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect()
    }

    /// Adds many durations at once: the cells that other threads use are changed once for all of them.
    pub fn observe_all(&self, durations: impl Iterator<Item = Duration>) {
        let Some(cell) = self.cell.get() else { return };
        let local = cell.local();
        durations.for_each(|duration| local.observe(duration.as_secs_f64()));
        local.flush();
    }
}

impl HistogramBy {
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        by: Label,
        buckets: &'static [f64],
    ) -> Self {
        Self { name, help, by, buckets, cells: OnceLock::new() }
    }

    /// Adds the time since `begun`. `value` is one of the label's values.
    pub fn observe_since(&self, value: &str, begun: Instant) {
        if let Some(cell) = self.by.cell(&self.cells, value) {
            cell.observe(begun.elapsed().as_secs_f64());
        }
    }

    /// Does the work and adds the time that it took.
    pub async fn time<T>(&self, value: &str, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let done = work.await;
        self.observe_since(value, begun);
        done
    }

    /// Whether the label has this value.
    #[must_use]
    pub fn knows(&self, value: &str) -> bool {
        self.by.values.contains(&value)
    }
}

impl Metric for Gauge {
    fn register(&self, registry: &Registry) -> Result<()> {
        let cell = prometheus::Gauge::with_opts(Opts::new(self.name, self.help))?;
        add(registry, &self.cell, cell)
    }
}

impl Metric for GaugeBy {
    fn register(&self, registry: &Registry) -> Result<()> {
        add(registry, &self.cells, GaugeVec::new(Opts::new(self.name, self.help), self.labels)?)
    }
}

impl Metric for Counter {
    fn register(&self, registry: &Registry) -> Result<()> {
        add(registry, &self.cell, IntCounter::with_opts(Opts::new(self.name, self.help))?)
    }
}

impl Metric for CounterBy {
    fn register(&self, registry: &Registry) -> Result<()> {
        let all = IntCounterVec::new(Opts::new(self.name, self.help), &[self.by.name])?;
        registry.register(Box::new(all.clone()))?;
        let cells = self.by.values.iter().map(|value| all.get_metric_with_label_values(&[value]));
        set(&self.cells, cells.collect::<Result<_>>()?)
    }
}

impl Metric for Histogram {
    fn register(&self, registry: &Registry) -> Result<()> {
        let options = HistogramOpts::new(self.name, self.help).buckets(self.buckets.to_vec());
        add(registry, &self.cell, prometheus::Histogram::with_opts(options)?)
    }
}

impl Metric for HistogramBy {
    fn register(&self, registry: &Registry) -> Result<()> {
        let options = HistogramOpts::new(self.name, self.help).buckets(self.buckets.to_vec());
        let all = HistogramVec::new(options, &[self.by.name])?;
        registry.register(Box::new(all.clone()))?;
        let cells = self.by.values.iter().map(|value| all.get_metric_with_label_values(&[value]));
        set(&self.cells, cells.collect::<Result<_>>()?)
    }
}

fn add<T: Collector + Clone + 'static>(registry: &Registry, place: &OnceLock<T>, cell: T) -> Result<()> {
    registry.register(Box::new(cell.clone()))?;
    set(place, cell)
}

fn set<T>(place: &OnceLock<T>, cells: T) -> Result<()> {
    place.set(cells).map_err(|_| prometheus::Error::AlreadyReg)
}

/// A count as the value of a gauge.
#[must_use]
pub fn count_as_f64(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let number = count as f64;
    number
}
