//! Pauses between the tries of a role.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config;

/// Sleeps for `duration`, or until `stop`.
pub async fn pause(duration: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(duration) => {}
        () = stop.cancelled() => {}
    }
}

/// Exponential pauses from `BACKOFF_MIN` to `BACKOFF_MAX`, with jitter and without an end.
pub fn backoff() -> impl Iterator<Item = Duration> {
    use backon::BackoffBuilder;
    backon::ExponentialBuilder::default()
        .with_min_delay(config::BACKOFF_MIN)
        .with_max_delay(config::BACKOFF_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}
