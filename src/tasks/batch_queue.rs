//! A bounded queue that a long-lived task reads in batches. What waits in it outlives the task: after a panic, the task
//! that is started again reads it.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

/// The reading side. A cheap handle; each item goes to one reader.
pub struct BatchQueue<T>(Arc<Mutex<mpsc::Receiver<T>>>);

/// A queue of at most `max_items`.
#[must_use]
pub fn batch_queue<T>(max_items: usize) -> (mpsc::Sender<T>, BatchQueue<T>) {
    let (sender, receiver) = mpsc::channel(max_items);
    (sender, BatchQueue(Arc::new(Mutex::new(receiver))))
}

impl<T> BatchQueue<T> {
    /// Waits for an item; returns all that wait, at most `max_items`. `None` when every sender is gone.
    pub async fn next_batch(&self, max_items: usize) -> Option<Vec<T>> {
        let mut batch = Vec::new();
        let received = self.0.lock().await.recv_many(&mut batch, max_items).await;
        (received > 0).then_some(batch)
    }
}

impl<T> Clone for BatchQueue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
