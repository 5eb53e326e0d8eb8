//! Wakes requests when the order that they wait for is recorded. Workers of this process announce the orders that they
//! commit. `heard` hears of the orders that other processes record, and reads their rows. `lookups` batches single
//! lookups.

mod heard;
mod lookups;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::domain::{Order, OrderId};
use crate::metrics;
use crate::postgres::Postgres;
use crate::tasks::Tasks;
use crate::tasks::batch_queue::batch_queue;
pub use lookups::NoAnswer;
use lookups::{Lookup, answer_lookups};

/// Waits for orders to be recorded. A cheap handle; clones share the same waiting orders.
#[derive(Clone)]
pub struct OrderWaiters {
    waiting: Arc<Waiting>,
    lookups: mpsc::Sender<Lookup>,
}

/// The orders that requests wait for.
#[derive(Default)]
struct Waiting {
    orders: Mutex<Orders>,
    /// Set when the program stops: then no new wait begins.
    is_closed: AtomicBool,
    /// Wakes the task that reads rows: some orders are to be read at once.
    to_read: Notify,
    /// Wakes the task that listens: a request waits.
    begun: Notify,
}

#[derive(Default)]
struct Orders {
    waited_for: HashMap<OrderId, Vec<oneshot::Sender<Order>>>,
    /// Those of `waited_for` that may be recorded by now: they are read at once, not only by the next poll.
    to_read: HashSet<OrderId>,
}

impl OrderWaiters {
    /// Starts the tasks that query Postgres, until `stop`.
    #[must_use]
    pub fn start(postgres: &Postgres, tasks: &Tasks, stop: &CancellationToken) -> Self {
        let (lookups, queue) = batch_queue(config::WAITING_ORDERS_MAX);
        let waiting: Arc<Waiting> = Arc::default();
        let parts = (queue, postgres.clone(), stop.clone());
        tokio::spawn(tasks.supervise("lookups of orders", None, stop, move || {
            let (queue, postgres, stop) = parts.clone();
            async move { stop.run_until_cancelled(answer_lookups(&queue, &postgres)).await }
        }));
        let parts = (waiting.clone(), postgres.clone(), stop.clone());
        tokio::spawn(tasks.supervise("rows of waiting orders", None, stop, move || {
            let (waiting, postgres, stop) = parts.clone();
            async move { stop.run_until_cancelled(heard::read_rows(&waiting, &postgres)).await }
        }));
        let parts = (waiting.clone(), postgres.clone(), stop.clone());
        tokio::spawn(tasks.supervise("notices of recorded orders", None, stop, move || {
            let (waiting, postgres, stop) = parts.clone();
            async move { stop.run_until_cancelled(Box::pin(heard::listen(&waiting, &postgres))).await }
        }));
        Self { waiting, lookups }
    }

    /// A receiver that resolves when the order is recorded; `None` if `WAITING_ORDERS_MAX` orders are waited for. Call
    /// this before the claim is made: otherwise only the next poll may notice the recording.
    #[must_use]
    pub fn wait(&self, order: OrderId) -> Option<oneshot::Receiver<Order>> {
        self.waiting.add(order, false)
    }

    /// As [`wait`](Self::wait), for an order that was claimed before: it may be recorded already.
    #[must_use]
    pub fn wait_for_earlier(&self, order: OrderId) -> Option<oneshot::Receiver<Order>> {
        self.waiting.add(order, true)
    }

    /// Ends every wait, without a row, and refuses new ones.
    pub fn close(&self) {
        let mut orders = self.waiting.lock();
        self.waiting.is_closed.store(true, Ordering::Relaxed);
        *orders = Orders::default();
    }

    /// Returns the orders among `orders` for which a request waits.
    #[must_use]
    pub fn waited_for(&self, orders: &[OrderId]) -> Vec<OrderId> {
        let waited_for = &self.waiting.lock().waited_for;
        if waited_for.is_empty() {
            return Vec::new();
        }
        orders.iter().copied().filter(|order| waited_for.contains_key(order)).collect()
    }

    /// Wakes the requests that wait for these orders, which a worker of this process has recorded.
    pub fn announce(&self, orders: &[Order]) {
        self.waiting.wake(orders, "worker");
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

impl Waiting {
    fn add(&self, order: OrderId, may_be_recorded: bool) -> Option<oneshot::Receiver<Order>> {
        let mut orders = self.lock();
        if orders.waited_for.len() >= config::WAITING_ORDERS_MAX || self.is_closed.load(Ordering::Relaxed) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        orders.waited_for.entry(order).or_default().push(sender);
        if may_be_recorded {
            orders.to_read.insert(order);
            self.to_read.notify_one();
        }
        drop(orders);
        self.begun.notify_one();
        Some(receiver)
    }

    /// Wakes the requests that wait for these orders. `found_by` says how the rows were found.
    fn wake(&self, rows: &[Order], found_by: &str) {
        let mut orders = self.lock();
        if orders.waited_for.is_empty() {
            return;
        }
        for row in rows {
            let senders = orders.waited_for.remove(&row.id).unwrap_or_default();
            metrics::WAITERS_WOKEN.add(found_by, senders.len() as u64);
            for sender in senders {
                // The request may be gone.
                drop(sender.send(row.clone()));
            }
        }
    }

    /// Lets those of these orders for which a request waits be read at once.
    fn mark(&self, recorded: &[OrderId]) {
        let mut orders = self.lock();
        if orders.waited_for.is_empty() {
            return;
        }
        let Orders { waited_for, to_read } = &mut *orders;
        to_read.extend(recorded.iter().filter(|order| waited_for.contains_key(order)));
        if !to_read.is_empty() {
            self.to_read.notify_one();
        }
    }

    fn mark_all(&self) {
        self.mark(&self.all());
    }

    fn take_marked(&self) -> Vec<OrderId> {
        let mut orders = self.lock();
        let marked = std::mem::take(&mut orders.to_read);
        marked.into_iter().filter(|order| orders.waited_for.contains_key(order)).collect()
    }

    /// All orders that requests wait for. Forgets requests that are gone.
    fn all(&self) -> Vec<OrderId> {
        let waited_for = &mut self.lock().waited_for;
        waited_for.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        waited_for.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_order_that_may_be_recorded_is_read_at_once_and_only_while_a_request_waits() {
        let waiting = Waiting::default();
        let [new, earlier, noticed, unknown, gone] = [(); 5].map(|()| OrderId::mint());
        let _kept = [(new, false), (earlier, true), (noticed, false)]
            .map(|(order, may_be_recorded)| waiting.add(order, may_be_recorded).unwrap());
        drop(waiting.add(gone, true));
        waiting.mark(&[noticed, unknown]);
        assert!(!waiting.all().contains(&gone));
        let marked: HashSet<OrderId> = waiting.take_marked().into_iter().collect();
        assert_eq!(marked, HashSet::from([earlier, noticed]));
        assert!(waiting.take_marked().is_empty());
        waiting.mark_all();
        assert_eq!(waiting.take_marked().len(), 3);
    }
}
