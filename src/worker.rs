//! Workers: read order events in the consumer group, record them in Postgres, acknowledge them.
//! `consume` reads new entries, `reclaim` takes over those that crashed workers left, both end them
//! through `record`; `housekeeping` trims, removes consumers that are gone and returns units.

mod consume;
mod housekeeping;
mod reclaim;
mod record;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::consume::Shift;
use crate::config::{self, WorkerSettings};
use crate::fence::{Fence, FenceState};
use crate::orders::waiters::OrderWaiters;
use crate::postgres::{self, PgConnection, Postgres, PostgresError};
use crate::redis::{Redis, RedisError, RedisServer, info, order_stream, scripts};
use crate::tasks::Tasks;

/// What every role of a worker needs.
#[derive(Clone)]
pub struct Context {
    pub server: RedisServer,
    pub postgres: Postgres,
    pub fence: Fence,
    pub waiters: OrderWaiters,
    pub tasks: Tasks,
    /// Wakes the housekeeping when a unit waits in the outbox.
    pub unit_waits: Arc<Notify>,
}

/// Runs all roles until `stop`; each ends the batch in hand first, if Postgres lets it.
pub async fn run(context: Context, settings: WorkerSettings, stop: CancellationToken) {
    let mut roles = start_roles(&Arc::new(context), &settings, &stop);
    // A role that ends before its time is started again, and there may be none.
    stop.cancelled().await;
    let all_ended = async { while roles.join_next().await.is_some() {} };
    if tokio::time::timeout(config::WORKER_STOP_GRACE, all_ended).await.is_err() {
        tracing::warn!("stopping workers in the middle of their work: others will take it over");
        roles.shutdown().await;
    }
}

fn start_roles(
    context: &Arc<Context>,
    settings: &WorkerSettings,
    stop: &CancellationToken,
) -> JoinSet<Option<()>> {
    let process = process_name();
    let mut roles = JoinSet::new();
    if settings.workers == 0 {
        return roles;
    }
    let (tasks, backlog) = (&context.tasks, Arc::new(Notify::new()));
    let mut consumer = |name: String, shift: Shift| {
        let role = format!("consumer {name}");
        let (stopped, context) = (stop.clone(), context.clone());
        let make = move || consume::run(context.clone(), name.clone(), shift.clone(), stopped.clone());
        roles.spawn(tasks.keep(&role, None, stop, make));
    };
    for number in 1..=settings.workers {
        consumer(format!("{process}-{number}"), Shift::Always(backlog.clone()));
    }
    consumer(format!("{process}-backlog"), Shift::Backlog(backlog));
    let (stopped, of_reclaim) = (stop.clone(), context.clone());
    let (name, reclaim_after) = (format!("{process}-reclaim"), settings.reclaim_after);
    roles.spawn(context.tasks.keep("reclaim", None, stop, move || {
        reclaim::run(of_reclaim.clone(), name.clone(), reclaim_after, stopped.clone())
    }));
    let (stopped, of_house, keep) = (stop.clone(), context.clone(), settings.stream_keep);
    roles.spawn(context.tasks.keep("housekeeping", None, stop, move || {
        housekeeping::run(of_house.clone(), keep, stopped.clone())
    }));
    roles
}

/// Unique to this run of this process: a name used twice would mix two consumers' pending entries.
fn process_name() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    format!("{host}-{}-{:04x}", std::process::id(), rand::random::<u16>())
}

/// A worker's own connections, made anew after every error on one of them.
struct Link<'a> {
    context: &'a Context,
    redis: Option<Redis>,
    postgres: Option<PgConnection>,
}

impl<'a> Link<'a> {
    fn new(context: &'a Context) -> Self {
        Self { context, redis: None, postgres: None }
    }

    /// The connection and the epoch of the marker on it: from the marker, never from Postgres. `None`
    /// while there is no agreement, after a pause.
    async fn epoch(&mut self, stop: &CancellationToken) -> Result<Option<(Redis, String)>, RedisError> {
        wait_until_up(&self.context.fence, stop).await;
        let redis = match &self.redis {
            Some(redis) => redis.clone(),
            None => self.redis.insert(self.context.server.connect_blocking().await?).clone(),
        };
        let epoch = order_stream::ready_epoch(&redis).await?;
        if epoch.is_none() {
            pause(config::FENCE_RETRY, stop).await;
        }
        Ok(epoch.map(|epoch| (redis, epoch)))
    }

    /// The connection to Postgres; a new one is first held against what Redis knows of Postgres's position.
    async fn postgres(&mut self, redis: &Redis, epoch: &str) -> Result<&mut PgConnection, PostgresError> {
        if self.postgres.is_none() {
            let noted = info::noted_lsn(redis).await;
            let mut connection = self.context.postgres.dedicated().await?;
            let now = postgres::fence::durable_lsn(&mut connection).await?;
            if noted.is_ok_and(|noted| noted.is_some_and(|noted| now < noted)) {
                let why = "Postgres is an older copy of itself";
                self.context.fence.postgres_lost_commits(epoch, why);
                return Err(PostgresError::Transient(why.into()));
            }
            self.postgres = Some(connection);
        }
        self.postgres.as_mut().ok_or_else(|| PostgresError::Transient("no connection".into()))
    }

    /// Drops the connections, so that the next turn makes new ones.
    fn broken(&mut self) {
        self.redis = None;
        self.postgres = None;
    }
}

/// Takes the fence down for entries that somebody deleted or trimmed before they were acknowledged. It is the
/// epoch in force now that has lost them: the marker read before them may be over, and held against an epoch
/// that is over, they would be forgotten.
async fn report_deleted(context: &Context, redis: &Redis, entries: usize) -> Result<(), RedisError> {
    let marker = order_stream::marker(redis).await?;
    // Without a marker a rebuild is due in any case.
    if let Some(epoch) = marker.as_deref().and_then(scripts::marker_epoch) {
        context.fence.lost(epoch, &format!("{entries} pending entries were deleted or trimmed in Redis"));
    }
    Ok(())
}

/// Takes a consumer's name out of the group, if it holds nothing.
async fn leave(context: &Context, consumer: &str) {
    let Ok(session) = context.fence.session() else { return };
    let removed = scripts::remove_consumer(&session.redis, &session.ready, consumer, Duration::ZERO).await;
    if let Err(error) = removed {
        tracing::debug!(consumer, "consumer {consumer} stays in the group: {error}");
    }
}

async fn wait_until_up(fence: &Fence, stop: &CancellationToken) {
    let mut states = fence.subscribe();
    tokio::select! {
        // An error means that the fence is gone with the program.
        _ = states.wait_for(|state| matches!(state, FenceState::Up(_))) => {}
        () = stop.cancelled() => {}
    }
}

async fn pause(duration: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(duration) => {}
        () = stop.cancelled() => {}
    }
}

/// What keeps a role from its work: told where it lasts, when it changes, and when it is over.
#[derive(Default)]
struct Hindrance {
    since: Option<Instant>,
    /// When the work failed last.
    failed: Option<Instant>,
    told: Option<String>,
}

impl Hindrance {
    fn note(&mut self, role: &str, why: &str) {
        self.failed = Some(Instant::now());
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        if waited >= config::HINDRANCE_TOLD_AFTER && self.told.as_deref() != Some(why) {
            tracing::warn!(consumer = role, "{role} has to wait: {why}");
            self.told = Some(why.to_owned());
        }
    }

    /// There was nothing to do: what failed a moment ago may only have gone to another consumer.
    fn note_nothing_to_do(&mut self, role: &str) {
        if self.failed.is_none_or(|failed| failed.elapsed() >= config::HINDRANCE_OVER_AFTER) {
            self.is_over(role);
        }
    }

    fn is_over(&mut self, role: &str) {
        let since = self.since.take();
        if let (Some(since), Some(_)) = (since, self.told.take()) {
            let waited = since.elapsed();
            let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(consumer = role, waited_ms, "{role} goes on after {} s", waited.as_secs());
        }
    }
}

/// Pauses between tries that grow from `BACKOFF_MIN` to `BACKOFF_MAX`, for ever.
fn backoff() -> impl Iterator<Item = Duration> {
    use backon::BackoffBuilder;
    backon::ExponentialBuilder::default()
        .with_min_delay(config::BACKOFF_MIN)
        .with_max_delay(config::BACKOFF_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}
