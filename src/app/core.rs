//! The parts that every process has, with or without HTTP: connections, and the fence with the tasks that depend on it.
//! Also makes the API from these parts.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::claims::batcher::Batcher;
use crate::claims::claim::Claims;
use crate::config::{self, CredentialSettings, StoreAddresses, StoreSettings, WorkerSettings};
use crate::coupons::catalogue::Catalogue;
use crate::coupons::definitions::Coupons;
use crate::coupons::publish;
use crate::coupons::snapshots::Snapshots;
use crate::domain::Partition;
use crate::fence::Fence;
use crate::fence::store_status::Stores;
use crate::http::Api;
use crate::http::auth::{AdminToken, Auth};
use crate::http::monitoring::Monitoring;
use crate::live::{Live, Operations, OperationsParts};
use crate::orders::expiry::EndingOrders;
use crate::orders::lookup::Orders;
use crate::orders::transitions::{self, Transitions};
use crate::orders::unrecorded::UnrecordedOrders;
use crate::orders::waiters::OrderWaiters;
use crate::postgres::{Postgres, PostgresError};
use crate::receipt::Receipts;
use crate::reconcile::Reconciler;
use crate::redis::RedisServer;
use crate::stop::Stop;
use crate::tasks::Tasks;
use crate::waitlist::{self, Waitlist};
use crate::worker;

/// The parts that every process starts and stops.
pub struct Core {
    server: RedisServer,
    postgres: Postgres,
    catalogue: Catalogue,
    fence: Fence,
    pub waiters: OrderWaiters,
    ending: EndingOrders,
    /// Wakes the task that returns units from the outbox.
    unit_waits: Arc<Notify>,
    tasks: Tasks,
    /// Stops the tasks in the fields below, and the tasks of `waiters`.
    stop: CancellationToken,
    fence_task: JoinHandle<Option<()>>,
    publisher: JoinHandle<Option<()>>,
    serving: JoinHandle<Option<()>>,
    /// Wakes the task `serving`.
    stock_came: Arc<Notify>,
    reconciling: JoinHandle<Option<()>>,
}

/// What the API needs to know.
pub struct ApiSettings<'a> {
    pub max_backlog: u64,
    /// Connections that the server accepts.
    pub max_connections: usize,
    pub reclaim_after: Duration,
    pub credentials: &'a CredentialSettings,
}

impl Core {
    /// Waits for Postgres (and reports through `set_status` why it waits), migrates the schema and starts the fence.
    /// `None` when the stop comes first.
    pub async fn start(
        stores: &StoreSettings,
        addresses: &StoreAddresses,
        tasks: &Tasks,
        stop: &Stop,
        set_status: impl Fn(&str),
    ) -> anyhow::Result<Option<Self>> {
        let server = RedisServer::new(addresses, &stores.redis_prefix, Partition::DEFAULT)?;
        let postgres = Postgres::new(&addresses.database_url, &stores.db_schema)?;
        if !wait_for_postgres(&postgres, stop, set_status).await? {
            return Ok(None);
        }
        let catalogue = Catalogue::new(postgres.clone());
        let (fence, stop) = (Fence::new(), CancellationToken::new());
        let parts = (fence.clone(), server.clone(), postgres.clone(), stop.clone());
        let run_fence = move || {
            let (fence, server, postgres, stop) = parts.clone();
            fence.run(server, postgres, stop)
        };
        let fence_task =
            tokio::spawn(tasks.supervise("fence", Some(config::TASK_MAX_IDLE), &stop, run_fence));
        let waiters = OrderWaiters::start(&postgres, tasks, &stop);
        let unit_waits = Arc::default();
        let ending = EndingOrders::start(&fence, &postgres, &unit_waits, tasks, &stop);
        let parts = (fence.clone(), postgres.clone(), catalogue.clone());
        let publisher = tasks.supervise("publisher", None, &stop, move || {
            let (fence, postgres, catalogue) = parts.clone();
            publish::run(fence, postgres, catalogue)
        });
        let publisher = tokio::spawn(publisher);
        let stock_came: Arc<Notify> = Arc::default();
        let parts = (fence.clone(), postgres.clone(), catalogue.clone(), stock_came.clone());
        let serving = tasks.supervise("waiting lists", None, &stop, move || {
            let (fence, postgres, catalogue, stock_came) = parts.clone();
            waitlist::serve::run(fence, postgres, catalogue, stock_came)
        });
        let serving = tokio::spawn(serving);
        let reconciler = Reconciler { fence: fence.clone(), postgres: postgres.clone() };
        let reconciling = tasks.supervise("reconciler", None, &stop, move || reconciler.clone().run());
        let (reconciling, tasks) = (tokio::spawn(reconciling), tasks.clone());
        Ok(Some(Self {
            server,
            postgres,
            catalogue,
            fence,
            waiters,
            ending,
            unit_waits,
            tasks,
            stop,
            fence_task,
            publisher,
            serving,
            stock_came,
            reconciling,
        }))
    }

    /// Makes the functions that the handlers call, and starts the tasks that only requests need. `http_stop` ends the
    /// event streams.
    pub fn api(&self, settings: &ApiSettings, http_stop: &CancellationToken) -> anyhow::Result<Api> {
        let &ApiSettings { max_backlog, max_connections, reclaim_after, credentials } = settings;
        let (fence, postgres, catalogue) =
            (self.fence.clone(), self.postgres.clone(), self.catalogue.clone());
        let batcher = Batcher::new(fence.clone(), catalogue.clone(), max_backlog);
        let unrecorded = UnrecordedOrders::new(self.waiters.clone(), fence.clone());
        let orders = Orders::new(
            self.waiters.clone(),
            unrecorded.clone(),
            self.ending.clone(),
            fence.clone(),
            postgres.clone(),
        );
        let parts = transitions::Parts {
            fence: fence.clone(),
            postgres: postgres.clone(),
            unit_waits: self.unit_waits.clone(),
        };
        let snapshots = Snapshots::new(fence.clone());
        let reconciler = Reconciler { fence: fence.clone(), postgres: postgres.clone() };
        let stores = Stores::new(fence.clone(), self.server.clone(), postgres.clone());
        let watched = OperationsParts {
            fence: fence.clone(),
            stores: stores.clone(),
            postgres: postgres.clone(),
            catalogue: catalogue.clone(),
            snapshots: snapshots.clone(),
            max_backlog,
            reclaim_after,
        };
        Ok(Api {
            live: Live::start(&catalogue, &snapshots, max_connections, &self.tasks, http_stop),
            operations: Operations::start(watched, &self.tasks, http_stop),
            claims: Claims::new(batcher, orders.clone(), catalogue.clone()),
            waitlist: Waitlist::start(&fence, &postgres, orders.clone(), &self.tasks, &self.stop),
            orders,
            transitions: Transitions::start(parts, unrecorded, &self.tasks, &self.stop),
            coupons: Coupons::new(
                fence.clone(),
                postgres.clone(),
                catalogue.clone(),
                snapshots.clone(),
                self.stock_came.clone(),
            ),
            catalogue,
            snapshots,
            stores,
            receipts: Receipts {
                fence: fence.clone(),
                postgres: postgres.clone(),
                reconciler: reconciler.clone(),
            },
            reconciler,
            fence,
            postgres,
            auth: Auth::new(credentials)?,
            demo: OnceLock::new(),
        })
    }

    /// What a process without the API shows.
    pub fn monitoring(&self, admin_token: Option<AdminToken>) -> Monitoring {
        let (fence, postgres) = (self.fence.clone(), self.postgres.clone());
        let stores = Stores::new(fence.clone(), self.server.clone(), postgres.clone());
        Monitoring { fence, stores, postgres, admin_token }
    }

    pub fn run_workers(&self, settings: WorkerSettings, stop: &CancellationToken) -> JoinHandle<Option<()>> {
        let context = worker::Context {
            server: self.server.clone(),
            postgres: self.postgres.clone(),
            fence: self.fence.clone(),
            waiters: self.waiters.clone(),
            tasks: self.tasks.clone(),
            unit_waits: self.unit_waits.clone(),
        };
        let work = worker::run(context, settings, stop.clone());
        tokio::spawn(self.tasks.require("workers", stop, work))
    }

    pub async fn stop(self, stop: &Stop) {
        self.stop.cancel();
        self.reconciling.abort();
        self.publisher.abort();
        self.serving.abort();
        if let Err(error) = self.fence_task.await {
            tracing::error!("the fence's task panicked: {error}");
        }
        let closed =
            tokio::time::timeout_at(stop.deadline(config::STOP_CONNECTIONS_BY), self.postgres.close());
        if closed.await.is_err() {
            tracing::debug!("connections to Postgres are dropped without a Terminate message");
        }
    }
}

/// Migrates the schema, and retries after transient errors; `false` when the stop comes first.
async fn wait_for_postgres(
    postgres: &Postgres,
    stop: &Stop,
    set_status: impl Fn(&str),
) -> anyhow::Result<bool> {
    let mut is_logged = false;
    loop {
        // A stop may drop this half-way: it uses separate connections, and each migration is one transaction.
        let Some(prepared) = stop.unless_stopped(postgres.prepare()).await else { return Ok(false) };
        match prepared {
            Ok(()) => return Ok(true),
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
            return Ok(false);
        }
    }
}
