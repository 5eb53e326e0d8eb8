//! Returns the units in the outbox to stock. Every process with workers does this. Several processes may do this at the
//! same time, because the release script returns each unit only once.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::pause::pause;
use crate::config;
use crate::fence::{Session, StoreError};
use crate::orders::release;
use crate::postgres::outbox;

/// Runs every `OUTBOX_POLL`, and as soon as this process puts a unit into the outbox, until `stop`.
pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        context.wait_until_up(&stop).await;
        let mut delay = config::OUTBOX_POLL;
        if let Ok(session) = context.fence.session()
            && let Err(error) = return_all(&context, &session).await
        {
            tracing::debug!("outbox: {error}");
            delay = config::OUTBOX_RETRY;
        }
        tokio::select! {
            () = pause(delay, &stop) => {}
            () = context.unit_waits.notified() => {}
        }
    }
}

/// Reads the outbox once to its end. A unit that cannot return now does not delay the other units.
async fn return_all(context: &Context, session: &Session) -> Result<(), StoreError> {
    let (fence, postgres) = (&context.fence, &context.postgres);
    let mut after = None;
    let mut outcome = Ok(());
    loop {
        let page = outbox::page(&postgres.pool, fence.partition(), after).await?;
        match release::return_units(fence, session, postgres, &page).await {
            Err(StoreError::Fenced) => outcome = Err(StoreError::Fenced),
            returned => returned?,
        }
        after = page.last().map(|row| row.order);
        if page.len() < config::OUTBOX_PAGE_ROWS {
            return outcome;
        }
    }
}
