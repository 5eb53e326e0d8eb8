//! The order to stop: which signals give it, and how much time each step of stopping has. What those steps are is
//! the caller's work.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::printing::stderr;
use crate::tasks::Tasks;

/// A cheap handle; clones share one order.
#[derive(Clone)]
pub struct Stop {
    ordered: CancellationToken,
    ordered_at: Arc<OnceLock<Instant>>,
}

impl Stop {
    /// From here on SIGTERM, SIGINT and SIGHUP order the stop instead of ending the process at once, and so does the
    /// end of a task without which the program cannot go on.
    ///
    /// # Errors
    /// When the system accepts no handler.
    pub fn on_signals(tasks: &Tasks) -> io::Result<Self> {
        let stop = Self { ordered: CancellationToken::new(), ordered_at: Arc::default() };
        let mut kinds = vec![("SIGTERM", SignalKind::terminate()), ("SIGINT", SignalKind::interrupt())];
        if !is_hangup_ignored() {
            kinds.push(("SIGHUP", SignalKind::hangup()));
        }
        for (name, kind) in kinds {
            let (order, failed, mut signals) = (stop.clone(), tasks.failed().clone(), signal(kind)?);
            tokio::spawn(tasks.need(name, &stop.ordered, async move {
                tokio::select! {
                    Some(()) = signals.recv() => order.order(name),
                    () = failed.cancelled() => order.order("a task has ended"),
                    else => {}
                }
            }));
        }
        Ok(stop)
    }

    fn order(&self, signal: &str) {
        if self.ordered_at.set(Instant::now()).is_ok() {
            std::thread::spawn(end_at_last);
            self.ordered.cancel();
            // Last: a log that no process reads may block.
            tracing::info!("{signal}: stopping");
        }
    }

    pub fn token(&self) -> &CancellationToken {
        &self.ordered
    }

    /// The work's result; `None` where the order comes first, which drops the work half-way.
    pub async fn unless_ordered<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.ordered.run_until_cancelled(work).await
    }

    /// So long after the order, or from now where nothing was ordered.
    #[must_use]
    pub fn by(&self, limit: Duration) -> Instant {
        self.ordered_at.get().copied().unwrap_or_else(Instant::now) + limit
    }
}

/// `nohup` ignores SIGHUP for the program that it starts, which then has to stay so.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// The runtime waits for work on blocking threads, such as a flush of a disk that hangs, for ever.
fn end_at_last() {
    std::thread::sleep(config::STOP_FORCED_EXIT_AFTER);
    stderr::line("seckill: something does not stop: ending all the same");
    stderr::flush();
    std::process::exit(1);
}
