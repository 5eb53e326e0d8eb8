//! Waits for a condition, never for a fixed time.

use std::future::Future;
use std::time::{Duration, Instant};

/// Longest wait for a condition; a test that reaches it fails.
pub const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// Calls `condition` until it returns a value. `what` says what should happen; the error of a wait that takes too long
/// contains it.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(POLL).await;
    }
}
