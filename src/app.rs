//! Composition: what `serve`, `worker` and `demo` start and stop, and in which order.

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

/// Runs HTTP and workers in one process, until SIGTERM, SIGINT or SIGHUP.
///
/// # Errors
/// For wrong settings, and where a store or a task that the program needs fails for good.
pub async fn serve(args: ServeArgs, log_format: LogFormat) -> anyhow::Result<()> {
    run_server(args, log_format, false).await
}

/// Runs `serve` with sample coupons and a token to try them with, on loopback only.
///
/// # Errors
/// As `serve`.
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

/// Runs workers alone, on external stores or those of a running `serve`.
///
/// # Errors
/// As `serve`.
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
    tracing::info!("{} workers have started", args.workers.workers);
    let workers = core.run_workers(args.workers, stop.token());
    workers.await.context("the workers' task panicked")?;
    core.stop(&stop).await;
    Ok(tasks.verdict()?)
}

async fn run_server(args: ServeArgs, log_format: LogFormat, is_demo: bool) -> anyhow::Result<()> {
    // Before anything is started: from here on a signal stops what was started.
    let tasks = Tasks::default();
    let stop = Stop::on_signals(&tasks)?;
    let external = args.stores.external_addresses()?;
    check_settings(&args, external.as_ref())?;
    let max_connections = open_files::for_connections()?;
    let (listener, address) = bind(args.http.listen, log_format)?;

    // HTTP first: from here on /livez and /readyz answer, also while the stores start.
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
    // Last, also after a failure: all other parts need the stores.
    if let Some(stores) = stores {
        stores.stop_by(stop.by(config::STOP_STORES_BY)).await?;
    }
    outcome?;
    Ok(tasks.verdict()?)
}

/// Prints on a separate thread: a reader of stdout that is slow or gone must not delay the sale.
fn print_beside_the_sale(text: String) -> anyhow::Result<()> {
    let print = move || {
        if let Err(error) = printing::to_stdout(&format!("{text}\n")) {
            tracing::warn!("the demo's text could not be printed: {error}");
        }
    };
    std::thread::Builder::new().name("demo-text".into()).spawn(print)?;
    Ok(())
}

/// The HTTP server's task and its API slot.
struct Http {
    address: SocketAddr,
    api: Arc<ApiSlot>,
    task: JoinHandle<Option<()>>,
    stop: CancellationToken,
}

/// Runs the API and the workers on stores that have started, until the stop.
async fn sell(
    args: &ServeArgs,
    is_demo: bool,
    http: Http,
    addresses: &StoreAddresses,
    credentials: &CredentialSettings,
    tasks: &Tasks,
    stop: &Stop,
) -> anyhow::Result<()> {
    let set_status = |status: &str| http.api.set_startup_status(status);
    let Some(core) = Core::start(&args.stores, addresses, tasks, stop, set_status).await? else {
        return Ok(());
    };
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

    // First HTTP, which makes work, then the workers, which do it; claims accepted until then are in the stream.
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

/// Waits for a task that was told to end; aborts it after the deadline.
async fn end_by(deadline: Instant, mut task: JoinHandle<Option<()>>, what: &str) -> anyhow::Result<()> {
    if let Ok(ended) = tokio::time::timeout_at(deadline, &mut task).await {
        return ended.map(drop).with_context(|| format!("the task of the {what} panicked"));
    }
    tracing::warn!("stopping although some {what} have not ended");
    task.abort();
    Ok(())
}

/// The parts that every process has, with or without HTTP.
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

/// The handles through which claims, orders and coupons are used.
struct Domain {
    claims: Claims,
    orders: Orders,
    coupons: Coupons,
    snapshots: Snapshots,
}

impl Core {
    /// Waits for Postgres (and reports why through `set_status`), migrates its schema and starts the fence. `None` when
    /// the program is told to stop first.
    async fn start(
        stores: &StoreSettings,
        addresses: &StoreAddresses,
        tasks: &Tasks,
        stop: &Stop,
        set_status: impl Fn(&str),
    ) -> anyhow::Result<Option<Self>> {
        metrics::install()?;
        let server = RedisServer::new(addresses, &stores.redis_prefix)?;
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
            tracing::error!("the fence's task panicked: {error}");
        }
        let closed = tokio::time::timeout_at(stop.by(config::STOP_CONNECTIONS_BY), self.postgres.close());
        if closed.await.is_err() {
            tracing::debug!("connections to Postgres are dropped without a Terminate message");
        }
    }
}

/// Migrates the schema, and retries transient errors; `false` when the program is told to stop first.
async fn wait_for_postgres(
    postgres: &Postgres,
    stop: &Stop,
    set_status: impl Fn(&str),
) -> anyhow::Result<bool> {
    let mut is_logged = false;
    loop {
        // On separate connections, and each migration in one transaction: a stop may drop it half-way.
        let Some(prepared) = stop.unless_ordered(postgres.prepare()).await else { return Ok(false) };
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
        if stop.unless_ordered(tokio::time::sleep(config::BACKOFF_MAX)).await.is_none() {
            return Ok(false);
        }
    }
}

fn bind(address: SocketAddr, log_format: LogFormat) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = server::listen(address)
        .with_context(|| format!("cannot listen on {address}: choose another with SECKILL_LISTEN"))?;
    let address = listener.local_addr()?;
    // The first line, with every log filter: scripts wait for it.
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

/// Checks the settings that can be checked before a port is bound or a store is started.
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

/// With external stores the credentials must be set: replicas must not generate different ones.
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
