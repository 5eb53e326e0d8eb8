//! Composition: what `serve`, `worker` and `demo` start and stop, and in which order.

mod core;
mod credentials;
mod demo;
mod partition;
mod replace;
mod shared;
mod worker;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::core::Core;
use crate::cli::{ServeArgs, WrongUsage};
use crate::config::{self, CredentialSettings, LogFormat, StoreAddresses};
use crate::data_dir::DataDir;
use crate::embedded::Embedded;
use crate::handover::Predecessor;
use crate::http::ApiSlot;
use crate::http::server::{self, ServeStop};
use crate::logs;
use crate::metrics::{self, Process};
use crate::open_files;
use crate::printing::{self, stderr};
use crate::stop::Stop;
use crate::tasks::Tasks;
use credentials::{check_settings, generated_credentials, required_credentials};
use replace::{Offer, SuccessorSlot, Takeover};
use shared::ApiSettings;
pub use worker::worker;

/// Runs HTTP and workers in one process, until SIGTERM, SIGINT or SIGHUP.
///
/// # Errors
/// When a setting is wrong, or when a store or a task that the program needs fails for good.
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

async fn run_server(args: ServeArgs, log_format: LogFormat, is_demo: bool) -> anyhow::Result<()> {
    // Before anything starts: from here on a signal stops the parts that have started.
    let tasks = Tasks::default();
    let stop = Stop::on_signals(&tasks)?;
    let external = args.stores.external_addresses()?;
    check_settings(&args, external.as_ref())?;
    let max_connections = open_files::max_connections()?;
    let predecessor = find_predecessor(&args).await?;
    let (listener, address) = match &predecessor {
        Some(predecessor) => replace::listener_of(predecessor)?,
        None => bind(args.http.listen)?,
    };
    announce(address, log_format);
    match &predecessor {
        Some(old) => tracing::info!("replacing process {} (version {})", old.about.pid, old.about.version),
        None if args.replace => tracing::info!("no server listens on {address}: starting as usual"),
        None => {}
    }
    open_files::warn_if_few(max_connections);

    // HTTP first: /livez and /readyz then answer while the stores start. A new process accepts only when the old one
    // ends.
    let api = Arc::new(ApiSlot::new(tasks.clone()));
    api.set_startup_status("the stores are starting");
    let (http_stop, accepts) = (ServeStop::default(), CancellationToken::new());
    let shared_listener = listener.as_fd().try_clone_to_owned()?;
    let serving = {
        let (api, stop, accepts) = (api.clone(), http_stop.clone(), accepts.clone());
        async move {
            if stop.token.run_until_cancelled(accepts.cancelled()).await.is_some() {
                server::serve(listener, api, max_connections, stop).await;
            }
        }
    };
    let http = tokio::spawn(tasks.require("HTTP", &http_stop.token, serving));
    let http = Http { address, max_connections, api, task: http, stop: http_stop };

    let dir = if external.is_some() { None } else { Some(DataDir::open(args.stores.data_dir.as_deref())?) };
    let credentials = match &dir {
        Some(dir) => generated_credentials(&args.credentials, dir)?,
        None => required_credentials(&args.credentials)?,
    };
    let predecessor_lock = predecessor.as_ref().and_then(|old| old.lock.as_ref()?.try_clone().ok());
    let takeover =
        predecessor.map(|old| Takeover::begin(old, dir.clone(), accepts.clone(), &tasks)).transpose()?;
    let (takeover, adopting) = takeover.unzip();
    let mut stores = None;
    if takeover.is_none() {
        accepts.cancel();
        if let Some(dir) = &dir {
            let starting = Box::pin(Embedded::start_unless_stopped(dir, stop.token(), &tasks));
            let Some(started) = starting.await? else { return Ok(tasks.check()?) };
            stores = Some(started);
        }
    }
    let addresses = match (external, &stores, &dir) {
        (Some(external), ..) => external,
        (None, Some(stores), _) => stores.addresses(),
        (None, None, Some(dir)) => Embedded::locate(dir.path())?,
        (None, None, None) => bail!("there are stores, embedded or external"),
    };
    let lock = stores.as_ref().map(Embedded::lock_descriptor).transpose()?.or(predecessor_lock);
    let data_dir = dir.as_ref().map(|dir| dir.path().to_owned()).zip(lock);
    let offer = Offer { address, listener: shared_listener, data_dir };
    let successor = SuccessorSlot::default();
    let sale =
        Sale { args: &args, is_demo, http, addresses: &addresses, credentials: &credentials, tasks: &tasks };
    let outcome = Box::pin(sale.run(takeover, (&successor, offer), &stop)).await;
    if let Some(adopting) = adopting {
        stores = adopting.await.context("the task that takes over the stores panicked")??;
    }
    // The stores stop last, also after a failure: all other parts need them.
    let stores_by = stop.deadline(config::STOP_STORES_BY);
    match (successor.take(), stores) {
        (Some(successor), stores) => {
            replace::leave(stores.zip(dir.as_ref()), successor, &tasks, stores_by).await?;
        }
        (None, Some(stores)) => stores.stop_by(stores_by).await?,
        (None, None) => {}
    }
    outcome?;
    Ok(tasks.check()?)
}

/// The server to replace; without one, this process starts as usual.
async fn find_predecessor(args: &ServeArgs) -> anyhow::Result<Option<Predecessor>> {
    if !args.replace {
        return Ok(None);
    }
    if args.http.listen.port() == 0 {
        bail!(WrongUsage("--replace needs the address of the running server: set SECKILL_LISTEN".into()));
    }
    Predecessor::find(args.http.listen).await
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
    max_connections: usize,
    api: Arc<ApiSlot>,
    task: JoinHandle<Option<()>>,
    stop: ServeStop,
}

/// The API and the workers, on stores that run.
struct Sale<'a> {
    args: &'a ServeArgs,
    is_demo: bool,
    http: Http,
    addresses: &'a StoreAddresses,
    credentials: &'a CredentialSettings,
    tasks: &'a Tasks,
}

impl Sale<'_> {
    /// Runs until the stop.
    async fn run(
        self,
        takeover: Option<Takeover>,
        (successor, offer): (&SuccessorSlot, Offer),
        stop: &Stop,
    ) -> anyhow::Result<()> {
        let Self { args, is_demo, http, addresses, credentials, tasks } = self;
        metrics::install(Process::Server)?;
        let set_status = |status: &str| http.api.set_startup_status(status);
        let Some(core) = Core::start(&args.stores, addresses, tasks, stop, set_status).await? else {
            return Ok(());
        };
        let settings = ApiSettings {
            max_backlog: args.http.max_backlog,
            max_connections: http.max_connections,
            reclaim_after: args.workers.reclaim_after,
            answer_after: args.http.answers.answer_after.into(),
            credentials: credentials.clone(),
        };
        let api = Arc::new(core.api(&settings, &http.stop.token)?);
        http.api.open(api.clone())?;
        let worker_stop = CancellationToken::new();
        let workers = core.run_workers(args.workers.clone(), &worker_stop);
        if let Some(takeover) = takeover {
            let completing = Box::pin(takeover.complete(&api.partitions));
            if let Some(Err(error)) = stop.unless_stopped(completing).await {
                stop.request("the old server continues");
                core.stop(stop).await;
                return Err(error);
            }
        }
        successor.wait(offer, http.stop.clone(), stop);
        if is_demo {
            let opening = Box::pin(demo::open(&api, args, http.address, credentials));
            if let Some(text) = stop.unless_stopped(opening).await {
                print_beside_the_sale(text?)?;
            }
        }
        drop(api);
        stop.token().cancelled().await;

        // HTTP first, so that no new claims arrive while the workers stop; the stream keeps the accepted claims.
        http.stop.token.cancel();
        let close_waits = async {
            tokio::time::sleep_until(stop.deadline(config::STOP_WAITING_CLAIMS_BY)).await;
            core.shared.waiters.close();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answered = end_by(stop.deadline(config::STOP_REQUESTS_BY), http.task, "requests") => answered?,
            () = close_waits => {}
        }
        worker_stop.cancel();
        end_by(stop.deadline(config::STOP_WORKERS_BY), workers, "workers").await?;
        core.stop(stop).await;
        Ok(())
    }
}

/// Waits for a task that is already asked to stop; aborts the task after the deadline.
async fn end_by(deadline: Instant, mut task: JoinHandle<Option<()>>, what: &str) -> anyhow::Result<()> {
    if let Ok(ended) = tokio::time::timeout_at(deadline, &mut task).await {
        return ended.map(drop).with_context(|| format!("the task of the {what} panicked"));
    }
    tracing::warn!("stopping although some {what} have not ended");
    task.abort();
    Ok(())
}

fn bind(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    bind_or_advise(address, "choose another with SECKILL_LISTEN, or take over with --replace")
}

/// Listens; the error says what the operator can do.
fn bind_or_advise(address: SocketAddr, advice: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener =
        server::listen(address).with_context(|| format!("cannot listen on {address}: {advice}"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The first line, with every log filter: scripts wait for this line.
fn announce(address: SocketAddr, log_format: LogFormat) {
    stderr::line(&match log_format {
        LogFormat::Text => format!("listening on http://{address}"),
        LogFormat::Json => {
            let message = format!("listening on http://{address}");
            let fields = serde_json::json!({"message": message, "address": address.to_string()});
            logs::json_line("INFO", module_path!(), &fields)
        }
    });
}
