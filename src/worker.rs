//! Workers: read order events in the consumer group, record them in Postgres, acknowledge them. This file starts the
//! roles, one file each: `consume` reads new entries and `reclaim` takes over those of crashed workers, both write them
//! through `record`; `sweep` expires orders, `return_units` returns the units of orders that have ended, `housekeeping`
//! trims the stream and removes old consumers.

mod connections;
mod consume;
mod context;
mod housekeeping;
mod pause;
mod reclaim;
mod record;
mod return_units;
mod stall;
mod sweep;

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::consume::ConsumerMode;
pub use self::context::Context;
use crate::config::{self, WorkerSettings};

/// Runs all roles until `stop`. Each role first ends its current batch, for at most `WORKER_STOP_GRACE`; other workers
/// reclaim the entries that are not acknowledged by then. With 0 workers it only waits for `stop`.
pub async fn run(context: Context, settings: WorkerSettings, stop: CancellationToken) {
    let mut roles = start_roles(&Arc::new(context), &settings, &stop);
    // Waits for `stop`, not for the roles: a role that ends early is restarted, and with 0 workers there are no roles.
    stop.cancelled().await;
    let all_ended = async { while roles.join_next().await.is_some() {} };
    if tokio::time::timeout(config::WORKER_STOP_GRACE, all_ended).await.is_err() {
        tracing::warn!("stopping workers before the end of their batches: other workers will reclaim them");
        roles.shutdown().await;
    }
}

fn start_roles(
    context: &Arc<Context>,
    settings: &WorkerSettings,
    stop: &CancellationToken,
) -> JoinSet<Option<()>> {
    let mut roles = JoinSet::new();
    if settings.workers == 0 {
        return roles;
    }
    let process = process_name();
    let backlog = Arc::new(Notify::new());
    for number in 1..=settings.workers {
        let mode = ConsumerMode::Always(backlog.clone());
        start_consumer(&mut roles, context, format!("{process}-{number}"), mode, stop);
    }
    start_consumer(&mut roles, context, format!("{process}-backlog"), ConsumerMode::Backlog(backlog), stop);
    start_reclaim(&mut roles, context, format!("{process}-reclaim"), settings, stop);
    start_housekeeping(&mut roles, context, settings, stop);
    let parts = (context.clone(), stop.clone());
    roles.spawn(context.tasks.supervise("sweeper", None, stop, move || {
        let (context, stop) = parts.clone();
        sweep::run(context, stop)
    }));
    let parts = (context.clone(), stop.clone());
    roles.spawn(context.tasks.supervise("return of units", None, stop, move || {
        let (context, stop) = parts.clone();
        return_units::run(context, stop)
    }));
    roles
}

fn start_consumer(
    roles: &mut JoinSet<Option<()>>,
    context: &Arc<Context>,
    name: String,
    mode: ConsumerMode,
    stop: &CancellationToken,
) {
    let role = format!("consumer {name}");
    let (own_context, own_stop) = (context.clone(), stop.clone());
    roles.spawn(context.tasks.supervise(&role, None, stop, move || {
        consume::run(own_context.clone(), name.clone(), mode.clone(), own_stop.clone())
    }));
}

fn start_reclaim(
    roles: &mut JoinSet<Option<()>>,
    context: &Arc<Context>,
    name: String,
    settings: &WorkerSettings,
    stop: &CancellationToken,
) {
    let (own_context, own_stop, reclaim_after) = (context.clone(), stop.clone(), settings.reclaim_after);
    roles.spawn(context.tasks.supervise("reclaim", None, stop, move || {
        reclaim::run(own_context.clone(), name.clone(), reclaim_after, own_stop.clone())
    }));
}

fn start_housekeeping(
    roles: &mut JoinSet<Option<()>>,
    context: &Arc<Context>,
    settings: &WorkerSettings,
    stop: &CancellationToken,
) {
    let (own_context, own_stop, stream_keep) = (context.clone(), stop.clone(), settings.stream_keep);
    roles.spawn(context.tasks.supervise("housekeeping", None, stop, move || {
        housekeeping::run(own_context.clone(), stream_keep, own_stop.clone())
    }));
}

/// A name that no other process, and no earlier run, uses: two consumers of one name would share their pending entries.
fn process_name() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    format!("{host}-{}-{:04x}", std::process::id(), rand::random::<u16>())
}
