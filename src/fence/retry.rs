//! Why the fence stays down, and how long it pauses before it tries to come up again.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::rebuild::Refused;
use crate::config;
use crate::postgres::PostgresError;
use crate::redis::RedisError;

/// Why the fence has no session.
#[derive(Debug)]
pub enum Down {
    /// A store gives no answer, or another process rebuilds: the fence tries again soon.
    Soon(String),
    /// An operator has to decide.
    Waits(Arc<str>),
    /// The rebuild failed: the pause before the next attempt grows.
    Failed(String),
}

impl Down {
    pub fn soon(error: impl Into<anyhow::Error>) -> Self {
        Self::Soon(format!("{:#}", error.into()))
    }

    pub fn after_rebuild(error: &anyhow::Error) -> Self {
        let is_busy = matches!(error.downcast_ref(), Some(Refused::Busy));
        let is_outage = matches!(error.downcast_ref(), Some(PostgresError::Transient(_)))
            || match error.downcast_ref() {
                Some(RedisError::Unknown(_) | RedisError::NoMaster(_) | RedisError::Moved(_)) => true,
                Some(busy @ RedisError::Busy(_)) => !busy.is_about_writes(),
                _ => false,
            };
        let reason = format!("{error:#}");
        if is_busy || is_outage { Self::Soon(reason) } else { Self::Failed(reason) }
    }

    pub fn reason(&self) -> &str {
        match self {
            Self::Soon(reason) | Self::Failed(reason) => reason,
            Self::Waits(reason) => reason,
        }
    }
}

/// Pauses that grow from `FENCE_RETRY` to `FENCE_RETRY_MAX` while rebuilds fail.
pub struct Pauses {
    growing: ExponentialBackoff,
    has_failed: bool,
    /// The last session ended at once.
    was_short: bool,
}

impl Default for Pauses {
    fn default() -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(config::FENCE_RETRY)
            .with_max_delay(config::FENCE_RETRY_MAX)
            .without_max_times();
        Self { growing: builder.build(), has_failed: false, was_short: false }
    }
}

impl Pauses {
    pub const fn has_failed(&self) -> bool {
        self.has_failed
    }

    pub fn after(&mut self, down: &Down) -> Duration {
        match down {
            Down::Soon(_) => config::FENCE_RETRY,
            Down::Waits(_) => config::FENCE_OPERATOR_POLL,
            Down::Failed(_) => {
                self.has_failed = true;
                self.next_pause()
            }
        }
    }

    /// The pause after a session. A session that ended at once lengthens the pause, as a failed rebuild does. Only the
    /// second such session in a row counts as failed: the log must still warn of the first loss after the start.
    pub fn after_session(&mut self, held: Duration) -> Duration {
        if held < config::FENCE_RETRY_RESET_AFTER {
            self.has_failed |= std::mem::replace(&mut self.was_short, true);
            return self.next_pause();
        }
        *self = Self::default();
        Duration::ZERO
    }

    fn next_pause(&mut self) -> Duration {
        self.growing.next().unwrap_or(config::FENCE_RETRY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rebuilds_that_fail_in_a_row_pause_longer_each_time_until_a_session_lasts() {
        let mut pauses = Pauses::default();
        let failed = Down::Failed("stream".into());
        let first: Vec<Duration> = (0..8).map(|_| pauses.after(&failed)).collect();
        assert_eq!(first[0], config::FENCE_RETRY);
        assert!(first.is_sorted() && first[7] == config::FENCE_RETRY_MAX, "{first:?}");
        assert_eq!(pauses.after_session(Duration::from_millis(140)), config::FENCE_RETRY_MAX);
        assert_eq!(pauses.after_session(config::FENCE_RETRY_RESET_AFTER), Duration::ZERO);
        assert_eq!(pauses.after(&failed), config::FENCE_RETRY);
        assert_eq!(
            pauses.after(&Down::Soon("outage".into())),
            config::FENCE_RETRY,
            "a store that does not answer is tried again at once"
        );
    }

    #[test]
    fn only_the_second_session_in_a_row_that_ends_at_once_counts_as_a_failed_rebuild() {
        let mut pauses = Pauses::default();
        let short = Duration::from_millis(140);
        assert_eq!((pauses.after_session(short), pauses.has_failed()), (config::FENCE_RETRY, false));
        pauses.after_session(short);
        assert!(pauses.has_failed());
        pauses.after_session(config::FENCE_RETRY_RESET_AFTER);
        assert!(!pauses.has_failed());
    }
}
