//! Logs that a role cannot work: once for each reason that lasts, and once when the role works again.

use std::time::Instant;

use crate::config;

/// The failures of one role since its last success.
#[derive(Default)]
pub struct Stall {
    /// The first failure in a row.
    since: Option<Instant>,
    last_failure: Option<Instant>,
    logged_reason: Option<String>,
}

impl Stall {
    /// Records a failure; logs it if failures last longer than `WORKER_STALL_LOGGED_AFTER` and the reason is new.
    pub fn record_failure(&mut self, role: &str, why: &str) {
        self.last_failure = Some(Instant::now());
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        if waited >= config::WORKER_STALL_LOGGED_AFTER && self.logged_reason.as_deref() != Some(why) {
            tracing::warn!(consumer = role, "{role} has to wait: {why}");
            self.logged_reason = Some(why.to_owned());
        }
    }

    /// Records a read without entries. It ends the stall only `WORKER_STALL_OVER_AFTER` after the last failure: before
    /// that, another consumer may have reclaimed the entries that failed.
    pub fn record_empty(&mut self, role: &str) {
        if self.last_failure.is_none_or(|failed| failed.elapsed() >= config::WORKER_STALL_OVER_AFTER) {
            self.record_success(role);
        }
    }

    /// Ends the stall; logs that if the stall was logged.
    pub fn record_success(&mut self, role: &str) {
        let since = self.since.take();
        if let (Some(since), Some(_)) = (since, self.logged_reason.take()) {
            let waited = since.elapsed();
            let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(consumer = role, waited_ms, "{role} goes on after {} s", waited.as_secs());
        }
    }
}
