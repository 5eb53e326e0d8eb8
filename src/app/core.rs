//! The parts that every process has, with or without HTTP: connections, and the partitions. Also makes the API from these
//! parts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::partition::PartitionTasks;
use super::shared::{ApiSettings, SharedParts};
use crate::config::{self, StoreAddresses, StoreSettings, WorkerSettings};
use crate::coupons::catalogue::Catalogue;
use crate::domain::Partition;
use crate::fence::store_status::Stores;
use crate::http::Api;
use crate::http::auth::{AdminToken, Auth};
use crate::http::monitoring::Monitoring;
use crate::live::{Live, Operations, OperationsParts};
use crate::orders::waiters::OrderWaiters;
use crate::partitions::Partitions;
use crate::postgres::{self, Postgres, PostgresError};
use crate::redis::RedisServer;
use crate::stop::Stop;
use crate::tasks::Tasks;
use crate::worker;

/// The parts that every process starts and stops.
pub struct Core {
    pub shared: SharedParts,
    running: Arc<Mutex<Running>>,
    growing: JoinHandle<Option<()>>,
}

#[derive(Default)]
struct Running {
    partitions: BTreeMap<Partition, PartitionTasks>,
    /// Called for each partition that starts.
    on_start: Vec<OnStart>,
}

type OnStart = Box<dyn FnMut(&PartitionTasks) + Send>;

impl Core {
    /// Waits for Postgres (and reports through `set_status` why it waits), migrates the schema, adds the partitions of the
    /// settings and starts all partitions. `None` when the stop comes first.
    pub async fn start(
        stores: &StoreSettings,
        addresses: &StoreAddresses,
        tasks: &Tasks,
        stop: &Stop,
        set_status: impl Fn(&str),
    ) -> anyhow::Result<Option<Self>> {
        let server = RedisServer::new(addresses, &stores.redis_prefix, Partition::DEFAULT)?;
        let StoreSettings { db_schema, postgres_connections, .. } = stores;
        let postgres = Postgres::with_connections(&addresses.database_url, db_schema, *postgres_connections)?;
        let Some(partitions) = wait_for_postgres(&postgres, stores.partitions, stop, set_status).await?
        else {
            return Ok(None);
        };
        let (catalogue, stop) = (Catalogue::new(postgres.clone()), CancellationToken::new());
        let waiters = OrderWaiters::start(&postgres, tasks, &stop);
        let shared = SharedParts { server, postgres, catalogue, waiters, tasks: tasks.clone(), stop };
        let running: Arc<Mutex<Running>> = Arc::default();
        start_new(&shared, &running, partitions);
        let parts = (shared.clone(), running.clone());
        let growing = tasks.supervise("search for new partitions", None, &shared.stop, move || {
            let (shared, running) = parts.clone();
            watch_for_new(shared, running)
        });
        let growing = tokio::spawn(growing);
        Ok(Some(Self { shared, running, growing }))
    }

    /// Makes the API. `http_stop` ends the event streams.
    pub fn api(&self, settings: &ApiSettings, http_stop: &CancellationToken) -> anyhow::Result<Api> {
        let SharedParts { postgres, catalogue, tasks, .. } = &self.shared;
        let partitions = Partitions::new(catalogue.clone(), postgres.clone());
        let (registry, shared, own) = (partitions.clone(), self.shared.clone(), settings.clone());
        self.for_each_partition(Box::new(move |partition| registry.add(partition.functions(&shared, &own))));
        let watched = OperationsParts {
            partitions: partitions.clone(),
            postgres: postgres.clone(),
            catalogue: catalogue.clone(),
            max_backlog: settings.max_backlog,
            reclaim_after: settings.reclaim_after,
        };
        Ok(Api {
            live: Live::start(catalogue, &partitions, settings.max_connections, tasks, http_stop),
            operations: Operations::start(watched, tasks, http_stop),
            catalogue: catalogue.clone(),
            postgres: postgres.clone(),
            auth: Auth::new(&settings.credentials)?,
            demo: OnceLock::new(),
            max_backlog: settings.max_backlog,
            partitions,
        })
    }

    /// What a process without the API shows.
    pub fn monitoring(&self, admin_token: Option<AdminToken>) -> Monitoring {
        let stores: Arc<RwLock<Vec<Stores>>> = Arc::default();
        let (started, shared) = (stores.clone(), self.shared.clone());
        self.for_each_partition(Box::new(move |partition| {
            started.write().unwrap_or_else(PoisonError::into_inner).push(partition.stores(&shared));
        }));
        Monitoring { stores, postgres: self.shared.postgres.clone(), admin_token }
    }

    /// Runs the workers of every partition, until `stop`.
    pub fn run_workers(&self, settings: WorkerSettings, stop: &CancellationToken) -> JoinHandle<Option<()>> {
        let (started, starting) = mpsc::unbounded_channel();
        let shared = self.shared.clone();
        self.for_each_partition(Box::new(move |partition| {
            // The receiver is gone when the program stops.
            drop(started.send(partition.worker_context(&shared)));
        }));
        let work = run_workers(starting, settings, stop.clone());
        tokio::spawn(self.shared.tasks.require("workers", stop, work))
    }

    /// Calls `on_start` for each partition, now and when a new one starts.
    fn for_each_partition(&self, mut on_start: OnStart) {
        let mut running = lock(&self.running);
        running.partitions.values().for_each(&mut on_start);
        running.on_start.push(on_start);
    }

    pub async fn stop(self, stop: &Stop) {
        self.shared.stop.cancel();
        self.growing.abort();
        let partitions = std::mem::take(&mut lock(&self.running).partitions);
        for partition in partitions.into_values() {
            partition.stop().await;
        }
        let postgres = &self.shared.postgres;
        let closed = tokio::time::timeout_at(stop.deadline(config::STOP_CONNECTIONS_BY), postgres.close());
        if closed.await.is_err() {
            tracing::debug!("connections to Postgres are dropped without a Terminate message");
        }
    }
}

/// Starts the partitions that do not run yet.
fn start_new(shared: &SharedParts, running: &Mutex<Running>, partitions: Vec<Partition>) {
    let mut running = lock(running);
    for partition in partitions {
        if running.partitions.contains_key(&partition) {
            continue;
        }
        let started = PartitionTasks::start(shared, partition);
        running.on_start.iter_mut().for_each(|on_start| on_start(&started));
        running.partitions.insert(partition, started);
    }
}

/// Another process may add partitions at any time.
async fn watch_for_new(shared: SharedParts, running: Arc<Mutex<Running>>) {
    loop {
        tokio::time::sleep(config::PARTITIONS_POLL).await;
        let pool = shared.postgres.pool.clone();
        let read = async move { postgres::fence::partitions(&pool).await };
        match postgres::with_timeout(config::PROBE_INTERVAL, read).await {
            Ok(partitions) => start_new(&shared, &running, partitions),
            Err(error) => tracing::debug!("partitions: {error}"),
        }
    }
}

async fn run_workers(
    mut starting: mpsc::UnboundedReceiver<worker::Context>,
    settings: WorkerSettings,
    stop: CancellationToken,
) {
    let mut partitions = JoinSet::new();
    while let Some(Some(context)) = stop.run_until_cancelled(starting.recv()).await {
        partitions.spawn(worker::run(context, settings.clone(), stop.clone()));
    }
    stop.cancelled().await;
    while partitions.join_next().await.is_some() {}
}

fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Migrates the schema, adds partitions up to the number in the settings, and returns all. Retries after transient errors;
/// `None` when the stop comes first.
async fn wait_for_postgres(
    postgres: &Postgres,
    partitions: usize,
    stop: &Stop,
    set_status: impl Fn(&str),
) -> anyhow::Result<Option<Vec<Partition>>> {
    let mut is_logged = false;
    loop {
        // A stop may drop this half-way: it uses separate connections, and each migration is one transaction.
        let preparing = async {
            postgres.prepare().await?;
            postgres::fence::add_partitions(postgres, partitions).await
        };
        let Some(prepared) = stop.unless_stopped(preparing).await else { return Ok(None) };
        match prepared {
            Ok(partitions) => return Ok(Some(partitions)),
            Err(PostgresError::Transient(why)) => {
                set_status(&format!("waiting for Postgres: {why}"));
                if !is_logged {
                    tracing::warn!("waiting for Postgres: {why}");
                    is_logged = true;
                }
            }
            Err(error) => return Err(error.into()),
        }
        if stop.unless_stopped(tokio::time::sleep(config::BACKOFF_MAX)).await.is_none() {
            return Ok(None);
        }
    }
}
