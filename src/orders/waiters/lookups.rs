//! Single lookups of orders: those that wait together share one query.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::config;
use crate::domain::{Order, OrderId};
use crate::postgres::{Postgres, orders};
use crate::tasks::batch_queue::BatchQueue;

/// Postgres gives no answer, or too many lookups wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

pub struct Lookup {
    pub order: OrderId,
    pub answer: oneshot::Sender<Result<Option<Order>, NoAnswer>>,
}

pub async fn answer_lookups(queue: &BatchQueue<Lookup>, postgres: &Postgres) {
    while let Some(batch) = queue.next_batch(config::CLAIM_BATCH_MAX_CLAIMS).await {
        let ids: Vec<OrderId> = batch.iter().map(|lookup| lookup.order).collect();
        let found = orders::get_many(&postgres.pool, &ids).await.map_err(|error| {
            tracing::debug!("lookup of {} orders: {error}", ids.len());
            NoAnswer
        });
        let found: Result<HashMap<OrderId, Order>, NoAnswer> =
            found.map(|orders| orders.into_iter().map(|order| (order.id, order)).collect());
        for lookup in batch {
            let row = found.as_ref().map(|found| found.get(&lookup.order).cloned());
            // The request may be gone.
            drop(lookup.answer.send(row.map_err(|no_answer| *no_answer)));
        }
    }
}
