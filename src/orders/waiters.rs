//! Wakes requests when the order that they wait for is recorded. Workers of this process announce the orders that they
//! commit. Orders that another process records are found by a poll: one query for all waiting orders. Also batches
//! single lookups.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::domain::{Order, OrderId};
use crate::postgres::{Postgres, orders};
use crate::tasks::Tasks;
use crate::tasks::batch_queue::{BatchQueue, batch_queue};

/// Waits for orders to be recorded. A cheap handle; clones share the same waiting orders.
#[derive(Clone)]
pub struct OrderWaiters {
    waiting: Arc<Mutex<HashMap<OrderId, Vec<oneshot::Sender<Order>>>>>,
    /// Set when the program stops: then no new wait begins.
    is_closed: Arc<AtomicBool>,
    lookups: mpsc::Sender<Lookup>,
}

/// Postgres gives no answer, or too many lookups wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

struct Lookup {
    order: OrderId,
    answer: oneshot::Sender<Result<Option<Order>, NoAnswer>>,
}

impl OrderWaiters {
    /// Starts the tasks that query Postgres, until `stop`.
    #[must_use]
    pub fn start(postgres: &Postgres, tasks: &Tasks, stop: &CancellationToken) -> Self {
        let (lookups, queue) = batch_queue(config::WAITING_ORDERS_MAX);
        let recorded = Self { waiting: Arc::default(), is_closed: Arc::default(), lookups };
        let parts = (queue, postgres.clone(), stop.clone());
        tokio::spawn(tasks.supervise("lookups of orders", None, stop, move || {
            let (queue, postgres, stop) = parts.clone();
            async move { stop.run_until_cancelled(answer_lookups(&queue, &postgres)).await }
        }));
        let parts = (recorded.waiting.clone(), postgres.clone(), stop.clone());
        tokio::spawn(tasks.supervise("poll for waiting orders", None, stop, move || {
            let (waiting, postgres, stop) = parts.clone();
            async move { stop.run_until_cancelled(poll(&waiting, &postgres)).await }
        }));
        recorded
    }

    /// A receiver that resolves when the order is recorded; `None` if `WAITING_ORDERS_MAX` requests wait. Call this
    /// before the claim is made: otherwise only the next poll may notice the recording.
    #[must_use]
    pub fn wait(&self, order: OrderId) -> Option<oneshot::Receiver<Order>> {
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= config::WAITING_ORDERS_MAX || self.is_closed.load(Ordering::Relaxed) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        waiting.entry(order).or_default().push(sender);
        Some(receiver)
    }

    /// Ends every wait, without a row, and refuses new ones.
    pub fn close(&self) {
        let mut waiting = lock(&self.waiting);
        self.is_closed.store(true, Ordering::Relaxed);
        waiting.clear();
    }

    /// Returns the orders among `orders` for which a request waits.
    #[must_use]
    pub fn waited_for(&self, orders: &[OrderId]) -> Vec<OrderId> {
        let waiting = lock(&self.waiting);
        if waiting.is_empty() {
            return Vec::new();
        }
        orders.iter().copied().filter(|order| waiting.contains_key(order)).collect()
    }

    /// Wakes the requests that wait for these orders.
    pub fn announce(&self, orders: &[Order]) {
        announce(&self.waiting, orders);
    }

    /// The order's row; `None` if there is none. Lookups that wait together share one query.
    ///
    /// # Errors
    /// If Postgres gives no answer, or the queue of lookups is full.
    pub async fn lookup(&self, order: OrderId) -> Result<Option<Order>, NoAnswer> {
        let (answer, answered) = oneshot::channel();
        self.lookups.try_send(Lookup { order, answer }).map_err(|_| NoAnswer)?;
        answered.await.unwrap_or(Err(NoAnswer))
    }
}

fn announce(waiting: &Mutex<HashMap<OrderId, Vec<oneshot::Sender<Order>>>>, orders: &[Order]) {
    let mut waiting = lock(waiting);
    if waiting.is_empty() {
        return;
    }
    for order in orders {
        for sender in waiting.remove(&order.id).unwrap_or_default() {
            // The request may be gone.
            drop(sender.send(order.clone()));
        }
    }
}

async fn answer_lookups(queue: &BatchQueue<Lookup>, postgres: &Postgres) {
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

async fn poll(waiting: &Mutex<HashMap<OrderId, Vec<oneshot::Sender<Order>>>>, postgres: &Postgres) {
    let mut ticks = tokio::time::interval(config::WAITING_ORDERS_POLL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let ids: Vec<OrderId> = {
            let mut waiting = lock(waiting);
            waiting.retain(|_, senders| {
                senders.retain(|sender| !sender.is_closed());
                !senders.is_empty()
            });
            waiting.keys().copied().collect()
        };
        for chunk in ids.chunks(config::RECORD_BATCH_MAX_EVENTS) {
            match orders::get_many(&postgres.pool, chunk).await {
                Ok(orders) => announce(waiting, &orders),
                Err(error) => tracing::debug!("poll of {} waiting orders: {error}", chunk.len()),
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
