//! Gives units in stock to the users in line: after a restock, after a pause and after a rebuild. Each process does this;
//! the script gives each place one unit. Units that come back one by one do not wait for this task: the release script
//! gives them away.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use super::checked;
use crate::config;
use crate::coupons::catalogue::Catalogue;
use crate::domain::CouponId;
use crate::fence::{Fence, FenceState, Session, StoreError};
use crate::metrics;
use crate::orders::release::record_served;
use crate::postgres::{Postgres, waitlist as rows};
use crate::redis::waitlist as line;

/// Serves every `WAITLIST_SERVE_INTERVAL`, and as soon as `stock_came` is notified.
pub async fn run(fence: Fence, postgres: Postgres, catalogue: Catalogue, stock_came: Arc<Notify>) {
    let mut states = fence.subscribe();
    let mut cleaned: Option<Instant> = None;
    loop {
        // An error means that the fence's task has ended with the program.
        let is_up = |state: &FenceState| matches!(state, FenceState::Up(_));
        if states.wait_for(is_up).await.is_err() {
            return;
        }
        if let Ok(session) = fence.session()
            && let Err(error) = serve_all(&fence, &session, &catalogue).await
        {
            tracing::debug!("waiting lists: {error}");
        }
        if cleaned.is_none_or(|at| at.elapsed() >= config::WAITLIST_CLEANUP_INTERVAL) {
            cleaned = Some(Instant::now());
            tokio::spawn(remove_served(postgres.clone()));
        }
        // An error means that the pause is over.
        drop(tokio::time::timeout(config::WAITLIST_SERVE_INTERVAL, stock_came.notified()).await);
    }
}

/// Not awaited by the task, which serves users also while Postgres hangs.
async fn remove_served(postgres: Postgres) {
    let mut read = None;
    loop {
        match rows::remove_served(&postgres.pool, read).await {
            Ok(None) => return,
            Ok(last) => read = last,
            Err(error) => return tracing::debug!("rows of waiting lists: {error}"),
        }
    }
}

async fn serve_all(fence: &Fence, session: &Session, catalogue: &Catalogue) -> Result<(), StoreError> {
    catalogue.refresh_briefly(config::WAITLIST_SERVE_INTERVAL).await;
    let mut waiting = 0;
    for coupon in catalogue.with_waitlist(fence.partition()) {
        waiting += serve(fence, session, &coupon).await?;
    }
    let partition = fence.partition().to_string();
    metrics::WAITLIST_WAITING.set_count(&[&partition], u64::try_from(waiting).unwrap_or(0));
    Ok(())
}

/// Serves one coupon's line until it has no more units or no more users; returns the users who still wait.
async fn serve(fence: &Fence, session: &Session, coupon: &CouponId) -> Result<i64, StoreError> {
    loop {
        let served = line::serve(&session.redis, &session.ready, coupon).await;
        let (served, left) = checked(fence, session, coupon, served)?;
        record_served(coupon, &served);
        if left == 0 {
            return Ok(line::length(&session.redis, coupon).await?);
        }
    }
}
