//! Expires reserved orders whose time to pay is over. The sweeper of each worker process uses [`Expiry`] for all
//! orders. Each server process uses [`EndingOrders`] for the orders that its repeated claims find.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::release::return_units;
use crate::config;
use crate::domain::OrderId;
use crate::fence::wal_position::read_position;
use crate::fence::{Fence, StoreError};
use crate::logs::{order_step, shows_order_steps};
use crate::metrics;
use crate::postgres::expiry::{self, ExpireOutcome, Overdue};
use crate::postgres::{PgConnection, Postgres, PostgresError, outbox};
use crate::tasks::Tasks;
use crate::tasks::batch_queue::{BatchQueue, batch_queue};

/// Expires orders, only while the fence is up.
pub struct Expiry {
    fence: Fence,
    postgres: Postgres,
}

impl Expiry {
    #[must_use]
    pub const fn new(fence: Fence, postgres: Postgres) -> Self {
        Self { fence, postgres }
    }

    /// Expires overdue orders in one transaction, puts their units into the outbox, and returns the number of orders.
    ///
    /// # Errors
    /// If a store does not answer within `RECORD_TIMEOUT`, or the fence is down or goes down.
    pub async fn expire(&self, which: Overdue<'_>) -> Result<usize, StoreError> {
        let session = self.fence.require_session()?;
        let position = read_position(&self.fence, &session).await?;
        let epoch = &session.epoch;
        let expired = self
            .run(async |connection| {
                let work = expiry::expire(connection, epoch, &position, which);
                metrics::TRANSACTION_DURATION.time("expire", work).await
            })
            .await?;
        match expired {
            ExpireOutcome::Expired(orders) => {
                metrics::ORDERS_EXPIRED.add(orders.len() as u64);
                if shows_order_steps() {
                    for order in &orders {
                        order_step!(order, "expired");
                    }
                }
                Ok(orders.len())
            }
            ExpireOutcome::Fenced => Err(StoreError::Fenced),
        }
    }

    /// The time until the next reserved order is overdue, by Postgres's clock; `None` without a reserved order.
    ///
    /// # Errors
    /// Where Postgres does not answer within `RECORD_TIMEOUT`.
    pub async fn next_deadline(&self) -> Result<Option<Duration>, PostgresError> {
        let partition = self.fence.partition();
        self.run(async |connection| expiry::next_deadline(connection, partition).await).await
    }

    async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, PostgresError>,
    ) -> Result<T, PostgresError> {
        let mut connection = self.postgres.work.borrow(self.fence.partition()).await?;
        let done = tokio::time::timeout(config::RECORD_TIMEOUT, work(&mut connection)).await;
        let done = done.map_err(|_| PostgresError::Transient("it gives no answer".into()))??;
        connection.give_back();
        Ok(done)
    }
}

/// Ends the orders that repeated claims find, in batches. A cheap handle; clones share one queue.
#[derive(Clone)]
pub struct EndingOrders {
    requests: mpsc::Sender<Request>,
}

struct Request {
    order: OrderId,
    is_overdue: bool,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

impl EndingOrders {
    /// Starts the task that ends orders until `stop`. If the task cannot return a unit, it notifies `unit_waits`.
    #[must_use]
    pub fn start(
        fence: &Fence,
        postgres: &Postgres,
        unit_waits: &Arc<Notify>,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> Self {
        let (requests, queue) = batch_queue(config::WAITING_ORDERS_MAX);
        let parts = (queue, fence.clone(), postgres.clone(), unit_waits.clone(), stop.clone());
        tokio::spawn(
            tasks.supervise("ending orders", None, stop, move || {
                let (queue, fence, postgres, unit_waits, stop) = parts.clone();
                async move {
                    stop.run_until_cancelled(answer_requests(&queue, &fence, &postgres, &unit_waits)).await
                }
            }),
        );
        Self { requests }
    }

    /// Expires the order if it is overdue, and returns its unit if it has ended; otherwise the sweeper and the worker
    /// would do this later. Requests that wait together share one transaction, and one script for each coupon.
    ///
    /// # Errors
    /// Where a store does not answer within `ENDING_ORDER_TIMEOUT`, the fence is down, or too many requests wait.
    pub async fn end(&self, order: OrderId, is_overdue: bool) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { order, is_overdue, answer };
        if self.requests.try_send(request).is_ok()
            && let Ok(Ok(done)) = tokio::time::timeout(config::ENDING_ORDER_TIMEOUT, answered).await
        {
            return done;
        }
        Err(PostgresError::Transient("it gives no answer".into()).into())
    }
}

async fn answer_requests(
    queue: &BatchQueue<Request>,
    fence: &Fence,
    postgres: &Postgres,
    unit_waits: &Notify,
) {
    let expiry = Expiry::new(fence.clone(), postgres.clone());
    while let Some(batch) = queue.next_batch(config::CLAIM_BATCH_MAX_CLAIMS).await {
        let done = end_all(&expiry, &batch).await;
        if let Err(error) = &done {
            tracing::debug!("cannot end {} orders: {error}", batch.len());
            unit_waits.notify_one();
        }
        for request in batch {
            // The claim that asked may have reached its timeout.
            drop(request.answer.send(done.clone()));
        }
    }
}

async fn end_all(expiry: &Expiry, batch: &[Request]) -> Result<(), StoreError> {
    let overdue: Vec<OrderId> =
        batch.iter().filter(|request| request.is_overdue).map(|request| request.order).collect();
    if !overdue.is_empty() {
        expiry.expire(Overdue::Given(&overdue)).await?;
    }
    let orders: Vec<OrderId> = batch.iter().map(|request| request.order).collect();
    let units = outbox::units_of_ended(&expiry.postgres.pool, &orders).await?;
    let session = expiry.fence.require_session()?;
    return_units(&expiry.fence, &session, &expiry.postgres, &units).await
}
