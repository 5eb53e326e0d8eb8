//! Composition: what `serve`, `worker` and `demo` start and stop, in which order and why.

mod demo;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::claims::batcher::Batcher;
use crate::claims::claim::Claims;
use crate::cli::{ServeArgs, WorkerArgs, WrongUsage};
use crate::config::{self, CredentialSettings, LogFormat, StoreAddresses, StoreSettings, WorkerSettings};
use crate::coupons::catalogue::Catalogue;
use crate::coupons::definitions::Coupons;
use crate::coupons::publish;
use crate::coupons::snapshots::Snapshots;
use crate::data_dir::{ADMIN_TOKEN, DataDir, JWT_SECRET};
use crate::embedded::Embedded;
use crate::fence::Fence;
use crate::fence::store_status::Stores;
use crate::http::auth::Auth;
use crate::http::{Api, ApiSlot, server};
use crate::logs;
use crate::metrics;
use crate::open_files;
use crate::orders::lookup::Orders;
use crate::orders::waiters::OrderWaiters;
use crate::postgres::{Postgres, PostgresError};
use crate::printing::{self, stderr};
use crate::reconcile::Reconciler;
use crate::redis::RedisServer;
use crate::stop::Stop;
use crate::tasks::Tasks;
use crate::worker;

/// HTTP and workers in one process, until SIGTERM, SIGINT or SIGHUP.
pub async fn serve(args: ServeArgs, log_format: LogFormat) -> anyhow::Result<()> {
    run_server(args, log_format, false).await
}

/// `serve` with sample coupons and a token to try them with, on loopback only.
pub async fn demo(args: ServeArgs, log_format: LogFormat) -> anyhow::Result<()> {
    if !config::is_loopback(args.http.listen.ip()) {
        let address = args.http.listen;
        bail!(WrongUsage(format!(
            "demo prints a valid token and so listens on loopback only, not on {address}: \
             use `seckill serve`, or SECKILL_LISTEN=127.0.0.1:8080"
        )));
    }
    run_server(args, log_format, true).await
}

/// Workers alone, on external stores or those of a running `serve`.
pub async fn worker(args: WorkerArgs) -> anyhow::Result<()> {
    if args.workers.workers == 0 {
        bail!(WrongUsage(
            "SECKILL_WORKERS=0 leaves a worker process nothing to do: give it 1 or more".into()
        ));
    }
    let tasks = Tasks::default();
    let stop = Stop::on_signals(&tasks)?;
    let addresses = if let Some(addresses) = args.stores.external_addresses()? {
        addresses
    } else {
        let data_dir = DataDir::locate(args.stores.data_dir.as_deref());
        let Some(joined) = stop.unless_ordered(Embedded::join(&data_dir)).await else { return Ok(()) };
        joined?
    };
    let Some(core) = Core::start(&args.stores, &addresses, &tasks, &stop, |_| {}).await? else {
        return Ok(tasks.verdict()?);
    };
    tracing::info!("{} workers are at work", args.workers.workers);
    let workers = core.run_workers(args.workers, stop.token());
    workers.await.context("the workers' task ended badly")?;
    core.stop(&stop).await;
    Ok(tasks.verdict()?)
}

async fn run_server(args: ServeArgs, log_format: LogFormat, is_demo: bool) -> anyhow::Result<()> {
    // Before anything is started: from here on a signal ends what was.
    let tasks = Tasks::default();
    let stop = Stop::on_signals(&tasks)?;
    let external = args.stores.external_addresses()?;
    check_settings(&args, external.as_ref())?;
    let max_connections = open_files::for_connections()?;
    let (listener, address) = bind(args.http.listen, log_format)?;

    // HTTP first: from here /livez and /readyz answer, whatever the stores do.
    let api = Arc::new(ApiSlot::new(tasks.clone()));
    api.set_startup_status("the stores are starting");
    let http_stop = CancellationToken::new();
    let serving = server::serve(listener, api.clone(), max_connections, http_stop.clone());
    let http = tokio::spawn(tasks.need("HTTP", &http_stop, serving));
    let http = Http { address, api, task: http, stop: http_stop };

    let (credentials, stores) = if external.is_some() {
        (required_credentials(&args.credentials)?, None)
    } else {
        let dir = DataDir::open(args.stores.data_dir.as_deref())?;
        let credentials = generated_credentials(&args.credentials, &dir)?;
        let starting = Box::pin(Embedded::start_unless(&dir, stop.token(), &tasks));
        let Some(stores) = starting.await? else { return Ok(tasks.verdict()?) };
        (credentials, Some(stores))
    };
    let addresses = external.or_else(|| stores.as_ref().map(Embedded::addresses));
    let addresses = addresses.context("there are stores, embedded or external")?;
    let outcome = Box::pin(sell(&args, is_demo, http, &addresses, &credentials, &tasks, &stop)).await;
    // Last, also after a failure: everything above needs them.
    if let Some(stores) = stores {
        stores.stop_by(stop.by(config::STOP_STORES_BY)).await?;
    }
    outcome?;
    Ok(tasks.verdict()?)
}

/// On a thread of its own: a reader that stands still holds up nothing, and without one the sale goes on.
fn print_beside_the_sale(text: String) -> anyhow::Result<()> {
    let print = move || {
        if let Err(error) = printing::to_stdout(&format!("{text}\n")) {
            tracing::warn!("the demo's text could not be printed: {error}");
        }
    };
    std::thread::Builder::new().name("demo-text".into()).spawn(print)?;
    Ok(())
}

/// The listener's task and what it shows.
struct Http {
    address: SocketAddr,
    api: Arc<ApiSlot>,
    task: JoinHandle<Option<()>>,
    stop: CancellationToken,
}

/// Claims, recording and all else on stores that run, until the stop.
async fn sell(
    args: &ServeArgs,
    is_demo: bool,
    http: Http,
    addresses: &StoreAddresses,
    credentials: &CredentialSettings,
    tasks: &Tasks,
    stop: &Stop,
) -> anyhow::Result<()> {
    let tell = |what: &str| http.api.set_startup_status(what);
    let Some(core) = Core::start(&args.stores, addresses, tasks, stop, tell).await? else { return Ok(()) };
    let domain = core.domain(args.http.max_backlog);
    http.api.open(Arc::new(core.api(&domain, credentials)?))?;
    let worker_stop = CancellationToken::new();
    let workers = core.run_workers(args.workers.clone(), &worker_stop);
    if is_demo {
        let opening = Box::pin(demo::open(&core.fence, &domain, args, http.address, credentials));
        if let Some(text) = stop.unless_ordered(opening).await {
            print_beside_the_sale(text?)?;
        }
    }
    drop(domain);
    stop.token().cancelled().await;

    // First those who make work, then those who do it; what is accepted until then is in the stream.
    http.stop.cancel();
    let close_waits = async {
        tokio::time::sleep_until(stop.by(config::STOP_WAITS_BY)).await;
        core.waiters.close();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answered = end_by(stop.by(config::STOP_ANSWERS_BY), http.task, "requests") => answered?,
        () = close_waits => {}
    }
    worker_stop.cancel();
    end_by(stop.by(config::STOP_WORKERS_BY), workers, "workers").await?;
    core.stop(stop).await;
    Ok(())
}

/// Waits for a task that was told to end; what does not end in time is left behind.
async fn end_by(deadline: Instant, mut task: JoinHandle<Option<()>>, what: &str) -> anyhow::Result<()> {
    if let Ok(ended) = tokio::time::timeout_at(deadline, &mut task).await {
        return ended.map(drop).with_context(|| format!("the task of the {what} ended badly"));
    }
    tracing::warn!("stopping although some {what} are still under way");
    task.abort();
    Ok(())
}

/// What a process with or without HTTP has in common.
struct Core {
    server: RedisServer,
    postgres: Postgres,
    catalogue: Catalogue,
    fence: Fence,
    waiters: OrderWaiters,
    tasks: Tasks,
    /// Ends the tasks below, and those of `waiters`.
    stop: CancellationToken,
    fence_task: JoinHandle<Option<()>>,
    publisher: JoinHandle<Option<()>>,
    reconciling: JoinHandle<Option<()>>,
}

/// What claims, orders and coupons are asked through.
struct Domain {
    claims: Claims,
    orders: Orders,
    coupons: Coupons,
    snapshots: Snapshots,
}

impl Core {
    /// Waits for Postgres (and tells why), brings its schema up to date and starts the fence; `None` when told to
    /// stop meanwhile.
    async fn start(
        stores: &StoreSettings,
        addresses: &StoreAddresses,
        tasks: &Tasks,
        stop: &Stop,
        tell: impl Fn(&str),
    ) -> anyhow::Result<Option<Self>> {
        metrics::install()?;
        let server = RedisServer::new(addresses, &stores.redis_prefix)?;
        let postgres = Postgres::new(&addresses.database_url, &stores.db_schema)?;
        if !wait_for_postgres(&postgres, stop, tell).await? {
            return Ok(None);
        }
        let catalogue = Catalogue::new(postgres.clone());
        let (fence, stop) = (Fence::new(), CancellationToken::new());
        let parts = (fence.clone(), server.clone(), postgres.clone(), stop.clone());
        let run_fence = move || {
            let (fence, server, postgres, stop) = parts.clone();
            fence.run(server, postgres, stop)
        };
        let fence_task = tokio::spawn(tasks.keep("fence", Some(config::TASK_WAKES_WITHIN), &stop, run_fence));
        let waiters = OrderWaiters::start(&postgres, tasks, &stop);
        let parts = (fence.clone(), postgres.clone(), catalogue.clone());
        let publisher = tasks.keep("publisher", None, &stop, move || {
            let (fence, postgres, catalogue) = parts.clone();
            publish::run(fence, postgres, catalogue)
        });
        let publisher = tokio::spawn(publisher);
        let reconciler = Reconciler { fence: fence.clone(), postgres: postgres.clone() };
        let reconciling = tasks.keep("reconciler", None, &stop, move || reconciler.clone().run());
        let (reconciling, tasks) = (tokio::spawn(reconciling), tasks.clone());
        Ok(Some(Self {
            server,
            postgres,
            catalogue,
            fence,
            waiters,
            tasks,
            stop,
            fence_task,
            publisher,
            reconciling,
        }))
    }

    fn domain(&self, max_backlog: u64) -> Domain {
        let batcher = Batcher::new(self.fence.clone(), self.catalogue.clone(), max_backlog);
        let orders = Orders::new(self.waiters.clone(), self.fence.clone(), self.postgres.clone());
        let snapshots = Snapshots::new(self.fence.clone());
        let (fence, postgres, catalogue) =
            (self.fence.clone(), self.postgres.clone(), self.catalogue.clone());
        Domain {
            claims: Claims::new(batcher, orders.clone(), catalogue.clone()),
            orders,
            coupons: Coupons::new(fence, postgres, catalogue, snapshots.clone()),
            snapshots,
        }
    }

    fn api(&self, domain: &Domain, credentials: &CredentialSettings) -> anyhow::Result<Api> {
        let (fence, postgres) = (self.fence.clone(), self.postgres.clone());
        Ok(Api {
            claims: domain.claims.clone(),
            orders: domain.orders.clone(),
            coupons: domain.coupons.clone(),
            catalogue: self.catalogue.clone(),
            snapshots: domain.snapshots.clone(),
            stores: Stores::new(fence.clone(), self.server.clone(), postgres.clone()),
            reconciler: Reconciler { fence: fence.clone(), postgres: postgres.clone() },
            fence,
            postgres,
            auth: Auth::new(credentials)?,
        })
    }

    fn run_workers(&self, settings: WorkerSettings, stop: &CancellationToken) -> JoinHandle<Option<()>> {
        let context = worker::Context {
            server: self.server.clone(),
            postgres: self.postgres.clone(),
            fence: self.fence.clone(),
            waiters: self.waiters.clone(),
            tasks: self.tasks.clone(),
            unit_waits: Arc::default(),
        };
        let work = worker::run(context, settings, stop.clone());
        tokio::spawn(self.tasks.need("workers", stop, work))
    }

    async fn stop(self, stop: &Stop) {
        self.stop.cancel();
        self.reconciling.abort();
        self.publisher.abort();
        if let Err(error) = self.fence_task.await {
            tracing::error!("the fence's task ended badly: {error}");
        }
        let closed = tokio::time::timeout_at(stop.by(config::STOP_CONNECTIONS_BY), self.postgres.close());
        if closed.await.is_err() {
            tracing::debug!("connections to Postgres are dropped without a goodbye");
        }
    }
}

/// Retries what will pass; `false` when told to stop meanwhile.
async fn wait_for_postgres(postgres: &Postgres, stop: &Stop, tell: impl Fn(&str)) -> anyhow::Result<bool> {
    let mut told = false;
    loop {
        // On connections of its own, and each migration in one transaction: a stop may drop it half-way.
        let Some(prepared) = stop.unless_ordered(postgres.prepare()).await else { return Ok(false) };
        match prepared {
            Ok(()) => return Ok(true),
            Err(PostgresError::Transient(why)) => {
                tell(&format!("waiting for Postgres: {why}"));
                if !told {
                    tracing::warn!("waiting for Postgres: {why}");
                    told = true;
                }
            }
            Err(error) => return Err(error.into()),
        }
        if stop.unless_ordered(tokio::time::sleep(config::BACKOFF_MAX)).await.is_none() {
            return Ok(false);
        }
    }
}

fn bind(address: SocketAddr, log_format: LogFormat) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = server::listen(address)
        .with_context(|| format!("cannot listen on {address}: choose another with SECKILL_LISTEN"))?;
    let address = listener.local_addr()?;
    // The first line, whatever the log filter: scripts wait for it.
    stderr::line(&match log_format {
        LogFormat::Text => format!("listening on http://{address}"),
        LogFormat::Json => {
            let message = format!("listening on http://{address}");
            let fields = serde_json::json!({"message": message, "address": address.to_string()});
            logs::json_line("INFO", module_path!(), &fields)
        }
    });
    Ok((listener, address))
}

/// What can be known to be wrong before a port is bound or a store started.
fn check_settings(args: &ServeArgs, external: Option<&StoreAddresses>) -> anyhow::Result<()> {
    if let Some(addresses) = external {
        required_credentials(&args.credentials)?;
        RedisServer::new(addresses, &args.stores.redis_prefix)?;
        Postgres::new(&addresses.database_url, &args.stores.db_schema)?;
    }
    let least = config::JWT_SECRET_MIN_BYTES;
    match args.credentials.jwt_secret.as_deref().map(str::len) {
        Some(length) if length < least => {
            bail!(WrongUsage(format!("SECKILL_JWT_SECRET has {length} bytes: give it at least {least}")))
        }
        _ => Ok(()),
    }
}

/// Replicas must not mint their own.
fn required_credentials(settings: &CredentialSettings) -> anyhow::Result<CredentialSettings> {
    if settings.admin_token.is_none() || settings.jwt_secret.is_none() {
        bail!(WrongUsage(
            "with REDIS_URL and DATABASE_URL set, SECKILL_ADMIN_TOKEN and SECKILL_JWT_SECRET must be set too: \
             every replica needs the same ones"
                .into()
        ));
    }
    Ok(settings.clone())
}

fn generated_credentials(settings: &CredentialSettings, dir: &DataDir) -> anyhow::Result<CredentialSettings> {
    let mut credentials = settings.clone();
    if credentials.admin_token.is_none() {
        credentials.admin_token = Some(dir.secret(ADMIN_TOKEN)?);
    }
    if credentials.jwt_secret.is_none() {
        credentials.jwt_secret = Some(dir.secret(JWT_SECRET)?);
    }
    Ok(credentials)
}
