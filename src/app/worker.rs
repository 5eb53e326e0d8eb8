//! `seckill worker`: workers alone, and the address at which their metrics and health are shown.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};

use super::core::Core;
use super::{announce, bind_or_advise, end_by};
use crate::cli::{WorkerArgs, WrongUsage};
use crate::config::{self, LogFormat, MonitoringSettings};
use crate::data_dir::{ADMIN_TOKEN, DataDir, read_secret};
use crate::embedded::Embedded;
use crate::http::Slot;
use crate::http::auth::AdminToken;
use crate::http::server::{self, ServeStop};
use crate::metrics::{self, Process};
use crate::stop::Stop;
use crate::tasks::Tasks;

/// Runs workers alone, on external stores or those of a running `serve`.
///
/// # Errors
/// As `serve`.
pub async fn worker(args: WorkerArgs, log_format: LogFormat) -> anyhow::Result<()> {
    if args.workers.workers == 0 {
        bail!(WrongUsage(
            "SECKILL_WORKERS=0 leaves a worker process nothing to do: set it to 1 or more".into()
        ));
    }
    let tasks = Tasks::default();
    let stop = Stop::on_signals(&tasks)?;
    let external = args.stores.external_addresses()?;
    check_token(&args.monitoring, external.is_some())?;
    let slot = Arc::new(Slot::new(tasks.clone()));
    slot.set_startup_status("the stores are starting");
    let listener = match args.monitoring.metrics_listen {
        None => None,
        Some(address) => Some(bind_or_advise(address, "choose another with SECKILL_METRICS_LISTEN")?),
    };
    let http_stop = ServeStop::of(stop.token());
    let http = listener.map(|(listener, address)| {
        announce(address, log_format);
        tokio::spawn(tasks.require(
            "HTTP",
            stop.token(),
            server::serve_monitoring(listener, slot.clone(), http_stop),
        ))
    });

    let (data_dir, is_embedded) = (DataDir::locate(args.stores.data_dir.as_deref()), external.is_none());
    let addresses = match external {
        Some(addresses) => addresses,
        None => match stop.unless_stopped(Embedded::join(&data_dir)).await {
            Some(joined) => joined?,
            None => return Ok(()),
        },
    };
    metrics::install(Process::Worker)?;
    let set_status = |status: &str| slot.set_startup_status(status);
    let Some(core) = Core::start(&args.stores, &addresses, &tasks, &stop, set_status).await? else {
        return Ok(tasks.check()?);
    };
    if let Some(address) = args.monitoring.metrics_listen {
        let data_dir = is_embedded.then_some(&*data_dir);
        let admin_token = admin_token(&args.monitoring, address, data_dir)?;
        slot.open(Arc::new(core.monitoring(admin_token)))?;
    }
    tracing::info!("{} workers are at work", args.workers.workers);
    let workers = core.run_workers(args.workers, stop.token());
    workers.await.context("the workers' task panicked")?;
    if let Some(http) = http {
        end_by(stop.deadline(config::STOP_WORKERS_BY), http, "requests").await?;
    }
    core.stop(&stop).await;
    Ok(tasks.check()?)
}

/// With embedded stores the token is in the data directory.
fn check_token(settings: &MonitoringSettings, is_external: bool) -> anyhow::Result<()> {
    match settings.metrics_listen {
        Some(address)
            if is_external && settings.admin_token.is_none() && !config::is_loopback(address.ip()) =>
        {
            bail!(WrongUsage(format!(
                "SECKILL_METRICS_LISTEN={address} is not loopback: set SECKILL_ADMIN_TOKEN too, which /metrics requires there"
            )))
        }
        _ => Ok(()),
    }
}

/// The token of the settings, else that of the data directory.
fn admin_token(
    settings: &MonitoringSettings,
    address: SocketAddr,
    data_dir: Option<&Path>,
) -> anyhow::Result<Option<AdminToken>> {
    let found = match (&settings.admin_token, data_dir) {
        (Some(token), _) => Ok(token.clone()),
        (None, Some(data_dir)) => read_secret(data_dir, ADMIN_TOKEN),
        (None, None) => return Ok(None),
    };
    match found {
        Ok(token) => AdminToken::new(Some(&token)).map(Some),
        // The server has no file if its token is a setting. Over loopback none is needed.
        Err(_) if config::is_loopback(address.ip()) => Ok(None),
        Err(error) => Err(error),
    }
}
