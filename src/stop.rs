//! The request to stop the program: the signals that make the request, and the deadlines that count from it. The steps
//! of stopping are in `app`.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::printing::stderr;
use crate::tasks::Tasks;

/// A cheap handle; clones share one request.
#[derive(Clone)]
pub struct Stop {
    requested: CancellationToken,
    requested_at: Arc<OnceLock<Instant>>,
}

impl Stop {
    /// From now on SIGTERM, SIGINT and SIGHUP request the stop instead of ending the process at once. An unexpected end
    /// of a task that cannot be restarted requests the stop too.
    ///
    /// # Errors
    /// When the system refuses a signal handler.
    pub fn on_signals(tasks: &Tasks) -> io::Result<Self> {
        let stop = Self { requested: CancellationToken::new(), requested_at: Arc::default() };
        let mut kinds = vec![("SIGTERM", SignalKind::terminate()), ("SIGINT", SignalKind::interrupt())];
        if !is_hangup_ignored() {
            kinds.push(("SIGHUP", SignalKind::hangup()));
        }
        for (name, kind) in kinds {
            let (request, failed, mut signals) = (stop.clone(), tasks.failed().clone(), signal(kind)?);
            tokio::spawn(tasks.require(name, &stop.requested, async move {
                tokio::select! {
                    Some(()) = signals.recv() => request.request(name),
                    () = failed.cancelled() => request.request("a task has ended"),
                    else => {}
                }
            }));
        }
        Ok(stop)
    }

    /// Requests the stop, as a signal does.
    pub fn request(&self, cause: &str) {
        if self.requested_at.set(Instant::now()).is_ok() {
            std::thread::spawn(exit_after_last_deadline);
            self.requested.cancel();
            tracing::info!("{cause}: stopping");
        }
    }

    /// Cancelled when the stop is requested.
    pub fn token(&self) -> &CancellationToken {
        &self.requested
    }

    /// The work's output; `None` if the request comes first: then the unfinished work is dropped.
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.requested.run_until_cancelled(work).await
    }

    /// The time `after` the request, or `after` now if there was no request.
    #[must_use]
    pub fn deadline(&self, after: Duration) -> Instant {
        self.requested_at.get().copied().unwrap_or_else(Instant::now) + after
    }
}

/// `nohup` makes the program that it starts ignore SIGHUP; a handler would undo that.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// The runtime's end waits for blocking threads without a timeout, for example for a flush to a disk that hangs. This
/// exits the process anyway.
fn exit_after_last_deadline() {
    std::thread::sleep(config::STOP_FORCED_EXIT_AFTER);
    stderr::line("seckill: the stop takes too long: exiting");
    stderr::flush();
    std::process::exit(1);
}
