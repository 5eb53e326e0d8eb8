//! The admin's event stream: the state of the sale once a second, and the charts' history at the start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{Stream, StreamExt, stream};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::history::{History, Point, Rates};
use super::status::{Backlog, Drift, FenceState, OpenLetters, PostgresState, RedisState, Status, UpOrDown};
use super::{TooManyStreams, event, new_hub};
use crate::config;
use crate::coupons::catalogue::Catalogue;
use crate::coupons::view::CouponView;
use crate::domain::{CouponId, CouponSnapshot, rfc3339};
use crate::fence::StoreError;
use crate::metrics::{self, DRIFT_KINDS};
use crate::orders::stream_status::{self, ConsumerInfo, StreamStatus, StreamView};
use crate::partitions::{PartitionFunctions, Partitions};
use crate::postgres::comparisons::{self, LastComparison};
use crate::postgres::{self, Postgres, health};
use crate::tasks::Tasks;

/// What the state is read from.
#[derive(Clone)]
pub struct OperationsParts {
    pub partitions: Partitions,
    pub postgres: Postgres,
    pub catalogue: Catalogue,
    pub max_backlog: u64,
    pub reclaim_after: Duration,
}

/// Opens the admin's event streams. A cheap handle.
#[derive(Clone)]
pub struct Operations {
    shared: Arc<Shared>,
}

struct Shared {
    parts: OperationsParts,
    hub: String,
    history: Mutex<History>,
    /// The newest `status` event.
    status: watch::Sender<Bytes>,
    places: Arc<Semaphore>,
    /// When a stream was last open.
    watched: Mutex<Option<Instant>>,
    stop: CancellationToken,
}

impl Operations {
    /// Starts the task that reads the state once a second, until `stop`, which also ends the streams.
    pub fn start(parts: OperationsParts, tasks: &Tasks, stop: &CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            parts,
            hub: new_hub(),
            history: Mutex::default(),
            status: watch::Sender::new(Bytes::new()),
            places: Arc::new(Semaphore::new(config::LIVE_ADMIN_STREAMS_MAX)),
            watched: Mutex::default(),
            stop: stop.clone(),
        });
        let of_task = (shared.clone(), stop.clone());
        let task = tasks.supervise("operations stream", None, stop, move || {
            let (shared, stop) = of_task.clone();
            async move {
                stop.run_until_cancelled(shared.run()).await;
            }
        });
        drop(tokio::spawn(task));
        Self { shared }
    }

    /// Opens a stream. `last_event_id` is the id of the last event that the client has got.
    ///
    /// # Errors
    /// If too many streams are open.
    pub fn open(
        &self,
        last_event_id: Option<&str>,
    ) -> Result<impl Stream<Item = Bytes> + Send + 'static, TooManyStreams> {
        let shared = self.shared.clone();
        let place = shared.places.clone().try_acquire_owned().map_err(|_| TooManyStreams)?;
        let after =
            last_event_id.and_then(|id| id.strip_prefix(&shared.hub)?.strip_prefix('-')?.parse().ok());
        let status = shared.status.subscribe();
        let first = shared.history_event(after.unwrap_or(0));
        let later = stream::unfold((shared, status, place), next_status);
        Ok(stream::iter([first]).chain(later))
    }
}

type Reader = (Arc<Shared>, watch::Receiver<Bytes>, OwnedSemaphorePermit);

async fn next_status((shared, mut status, place): Reader) -> Option<(Bytes, Reader)> {
    tokio::select! {
        () = shared.stop.cancelled() => return None,
        changed = status.changed() => changed.ok()?,
    }
    let event = status.borrow_and_update().clone();
    Some((event, (shared, status, place)))
}

/// Whether every partition takes claims, since when, and why not.
struct FenceSince {
    epoch: Option<String>,
    reason: Option<Arc<str>>,
    since: OffsetDateTime,
}

impl FenceSince {
    const fn new(epoch: Option<String>, since: OffsetDateTime) -> Self {
        Self { epoch, reason: None, since }
    }

    fn shown(&self) -> FenceState {
        FenceState {
            state: if self.epoch.is_some() { UpOrDown::Up } else { UpOrDown::Down },
            epoch: self.epoch.clone(),
            since: self.since.format(&Rfc3339).unwrap_or_default(),
            reason: self.reason.as_deref().map(str::to_owned),
        }
    }
}

impl Shared {
    async fn run(&self) {
        let mut ticks = tokio::time::interval(config::LIVE_ADMIN_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rates = Rates::default();
        let mut fence = FenceSince::new(None, OffsetDateTime::now_utc());
        let mut last_drift = Drift::default();
        loop {
            ticks.tick().await;
            let partitions = self.parts.partitions.all();
            let epochs = self.parts.partitions.epochs();
            let epoch = epochs.as_ref().ok().cloned();
            if fence.epoch != epoch {
                fence = FenceSince::new(epoch, OffsetDateTime::now_utc());
            }
            fence.reason = epochs.err();
            let coupons = if self.is_watched() { self.coupons().await.ok() } else { None };
            let acknowledged = join_all(partitions.iter().map(|partition| acknowledged(partition))).await;
            let acknowledged = acknowledged.into_iter().sum::<Option<i64>>();
            let stock = coupons.iter().flatten().take(config::LIVE_HISTORY_MAX_COUPONS);
            let point = Point {
                t: OffsetDateTime::now_utc().unix_timestamp(),
                claims: rates.claims(),
                recorded: rates.recorded(acknowledged),
                backlog: partitions.iter().map(|partition| partition.fence.backlog()).sum(),
                window_p99_ms: rates.window_p99_ms(),
                stock: stock
                    .map(|coupon| (coupon.id.clone(), coupon.stock))
                    .collect::<BTreeMap<CouponId, i64>>(),
            };
            self.lock_history().push(point.clone());
            if self.status.receiver_count() > 0 {
                let status = self.status(&point, &fence, coupons.as_deref(), &mut last_drift).await;
                self.status.send_replace(event(&self.id(point.t), "status", &status));
            }
        }
    }

    fn id(&self, t: i64) -> String {
        format!("{}-{t}", self.hub)
    }

    fn history_event(&self, after: i64) -> Bytes {
        let history = self.lock_history();
        let points = history.after(after);
        let last = points.last().map_or(after, |point| point.t);
        event(&self.id(last), "history", &json!({"points": points}))
    }

    /// Whether a stream is open, or was during the time that the history covers.
    fn is_watched(&self) -> bool {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if self.status.receiver_count() > 0 {
            *watched = Some(Instant::now());
        }
        let points = u32::try_from(config::LIVE_HISTORY_POINTS).unwrap_or(u32::MAX);
        watched.is_some_and(|last| last.elapsed() < config::LIVE_ADMIN_INTERVAL * points)
    }

    /// The first coupons, with those that are not listed.
    async fn coupons(&self) -> Result<Vec<Arc<CouponSnapshot>>, StoreError> {
        let ids = self.parts.catalogue.page(None, config::LIVE_ADMIN_MAX_COUPONS, true);
        self.parts.partitions.snapshots(ids).await
    }

    async fn status(
        &self,
        point: &Point,
        fence: &FenceSince,
        coupons: Option<&[Arc<CouponSnapshot>]>,
        last_drift: &mut Drift,
    ) -> Status {
        let parts = &self.parts;
        let partitions = parts.partitions.all();
        let (stores, streams, workers, letters, drift) = tokio::join!(
            parts.partitions.store_status(),
            read_streams(&partitions),
            count_workers(&partitions),
            self.open_letters(),
            drift(parts),
        );
        if let Some(drift) = drift {
            *last_drift = drift;
        }
        let streams = streams.as_ref();
        let known = parts.catalogue.count();
        let views = coupons.map(|coupons| coupons.iter().map(|coupon| CouponView::from(&**coupon)).collect());
        let views: Option<Vec<CouponView>> = views;
        Status {
            server_time: coupons
                .and_then(|coupons| coupons.iter().map(|coupon| coupon.now_ms).max())
                .map(rfc3339),
            point: point.clone(),
            fence: fence.shown(),
            redis: RedisState {
                state: stores.redis,
                appendfsync_always: metrics::APPENDFSYNC_ALWAYS.read().map(|value| value > 0.0),
            },
            postgres: PostgresState { state: stores.postgres, away_since: stores.postgres_away_since },
            backlog: Backlog {
                events: streams
                    .map_or_else(|| i64::try_from(point.backlog).ok(), |streams| Some(streams.backlog())),
                allowed: parts.max_backlog,
                pending: streams.map(|streams| streams.sum(|view| view.pending)),
                lag: streams.map(|streams| streams.sum(|view| view.lag)),
                oldest_ms: streams.and_then(Streams::oldest_ms),
            },
            reclaim_after_ms: u64::try_from(parts.reclaim_after.as_millis()).unwrap_or(u64::MAX),
            workers,
            consumers: streams.map(Streams::consumers),
            drift: last_drift.clone(),
            dead_letters: OpenLetters { open: letters },
            coupons: views,
            coupons_left_out: coupons.map(|coupons| known.saturating_sub(coupons.len()) as u64),
        }
    }

    async fn open_letters(&self) -> Option<i64> {
        let pool = self.parts.postgres.pool.clone();
        let read = async move { health::unseen_letters(&pool).await };
        postgres::with_timeout(config::PROBE_INTERVAL, read).await.ok()
    }

    fn lock_history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The streams of all partitions.
struct Streams(Vec<StreamView>);

impl Streams {
    fn sum(&self, number: impl Fn(&StreamView) -> i64) -> i64 {
        self.0.iter().map(number).sum()
    }

    fn backlog(&self) -> i64 {
        self.sum(|view| view.backlog)
    }

    /// The age of the oldest event that is not recorded; 0 without one.
    fn oldest_ms(&self) -> Option<i64> {
        if self.backlog() == 0 {
            return Some(0);
        }
        self.0.iter().map(|view| view.oldest_pending_ms.max(view.oldest_unread_ms)).max().flatten()
    }

    fn consumers(&self) -> Vec<ConsumerInfo> {
        self.0.iter().flat_map(|view| view.consumers.clone()).collect()
    }
}

/// Those of the partitions that are up; `None` if no stream can be read.
async fn read_streams(partitions: &[Arc<PartitionFunctions>]) -> Option<Streams> {
    let read = join_all(partitions.iter().map(|partition| stream_status::read(&partition.fence))).await;
    let view = |read| match read {
        Ok(StreamStatus::Up(view)) => Some(*view),
        Ok(StreamStatus::Down { .. }) | Err(_) => None,
    };
    let read: Vec<StreamView> = read.into_iter().filter_map(view).collect();
    (!read.is_empty()).then_some(Streams(read))
}

async fn count_workers(partitions: &[Arc<PartitionFunctions>]) -> Option<u64> {
    let read = join_all(partitions.iter().map(|partition| stream_status::workers(&partition.fence))).await;
    read.into_iter().filter_map(|workers| workers.ok().flatten()).reduce(|sum, workers| sum + workers)
}

async fn acknowledged(partition: &PartitionFunctions) -> Option<i64> {
    stream_status::acknowledged(&partition.fence).await.ok().flatten()
}

/// The differences of the last comparison of each partition, and the time of the oldest of these comparisons. `None` if
/// Postgres does not answer.
async fn drift(parts: &OperationsParts) -> Option<Drift> {
    let pool = parts.postgres.pool.clone();
    let read = async move { comparisons::read(&pool).await };
    let last = postgres::with_timeout(config::PROBE_INTERVAL, read).await.ok()?;
    let of = |partition| last.iter().find(|last| last.partition == partition);
    let started: Vec<Option<&LastComparison>> =
        parts.partitions.all().iter().map(|partition| of(partition.fence.partition())).collect();
    let mut kinds: BTreeMap<String, f64> = DRIFT_KINDS.iter().map(|&kind| (kind.to_owned(), 0.0)).collect();
    for (kind, count) in started.iter().flatten().flat_map(|last| &last.differences) {
        *kinds.entry(kind.clone()).or_default() += metrics::count_as_f64(count.unsigned_abs());
    }
    let compared: Option<Vec<OffsetDateTime>> =
        started.iter().map(|last| last.map(|last| last.compared_at)).collect();
    let oldest = compared.and_then(|compared| compared.into_iter().min());
    let compared_at = oldest.and_then(|oldest| oldest.format(&Rfc3339).ok());
    Some(Drift { total: kinds.values().sum(), kinds, compared_at })
}
