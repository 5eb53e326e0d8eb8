//! Event streams: every open page sees stock and states within a second. However many streams are open, one task reads
//! the stores for all of them. `feed` holds what streams send, `stream` is one of them, `poll` is the task that reads;
//! `operations`, `status` and `history` are the admin's stream.

mod feed;
mod history;
mod operations;
mod poll;
mod status;
mod stream;
mod topics;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use futures_util::Stream;
use serde::Serialize;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::coupons::catalogue::Catalogue;
use crate::partitions::Partitions;
use crate::tasks::Tasks;
use feed::Feed;
pub use feed::Topic;
pub use history::Point;
pub use operations::{Operations, OperationsParts};
pub use status::Status;
use stream::Subscriber;
use topics::Topics;

/// Opens event streams. A cheap handle.
#[derive(Clone)]
pub struct Live {
    hub: Arc<Hub>,
}

/// What the streams and the task share.
struct Hub {
    feed: RwLock<Feed>,
    topics: Topics,
    /// The number of reads that the task has begun, and the number that it has ended.
    begun: AtomicU64,
    ended: watch::Sender<u64>,
    /// Wakes the task when the first stream opens.
    wanted: Notify,
    places: Arc<Semaphore>,
    max_streams: usize,
    stop: CancellationToken,
}

/// As many event streams are open as may be.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "too many event streams are open: read the address without /events once a second, or try again later"
)]
pub struct TooManyStreams;

impl Live {
    /// Starts the task that reads for the streams, until `stop`, which also ends the streams.
    pub fn start(
        catalogue: &Catalogue,
        partitions: &Partitions,
        max_connections: usize,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> Self {
        let max_streams = max_connections * config::LIVE_MAX_CONNECTIONS_PERCENT / 100;
        let hub = Arc::new(Hub {
            feed: RwLock::new(Feed::new(new_hub())),
            topics: Topics::default(),
            begun: AtomicU64::new(0),
            ended: watch::Sender::new(0),
            wanted: Notify::new(),
            places: Arc::new(Semaphore::new(max_streams)),
            max_streams,
            stop: stop.clone(),
        });
        let parts = (hub.clone(), catalogue.clone(), partitions.clone(), stop.clone());
        let task = tasks.supervise("event streams", None, stop, move || {
            let (hub, catalogue, partitions, stop) = parts.clone();
            async move {
                stop.run_until_cancelled(poll::run(hub, catalogue, partitions)).await;
            }
        });
        drop(tokio::spawn(task));
        Self { hub }
    }

    /// Opens a stream. `last_event_id` is the id of the last event that the client has got.
    ///
    /// # Errors
    /// If too many streams are open.
    pub async fn open(
        &self,
        topic: Topic,
        last_event_id: Option<&str>,
    ) -> Result<impl Stream<Item = Bytes> + Send + 'static, TooManyStreams> {
        let hub = self.hub.clone();
        let place = hub.places.clone().try_acquire_owned().map_err(|_| TooManyStreams)?;
        let watched = hub.topics.watch(topic.clone());
        hub.wait_for_read().await;
        let resumed = last_event_id.and_then(|id| hub.feed().resume(id));
        let subscriber = Subscriber {
            hub,
            topic,
            sent: resumed.unwrap_or(0),
            resets: resumed.is_none(),
            _held: (watched, place),
        };
        Ok(subscriber.events())
    }
}

impl Hub {
    fn feed(&self) -> RwLockReadGuard<'_, Feed> {
        self.feed.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn feed_mut(&self) -> RwLockWriteGuard<'_, Feed> {
        self.feed.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_streams(&self) -> usize {
        self.max_streams - self.places.available_permits()
    }

    /// Waits for a read that began after this call. Without one in time, the stream says that its numbers are stale.
    async fn wait_for_read(&self) {
        let begun = self.begun.load(Ordering::SeqCst);
        self.wanted.notify_one();
        let mut ended = self.ended.subscribe();
        let is_later = |ended: &u64| *ended > begun;
        drop(tokio::time::timeout(config::LIVE_FIRST_READ_TIMEOUT, ended.wait_for(is_later)).await);
    }
}

/// The first part of event ids.
fn new_hub() -> String {
    let mut id = uuid::Uuid::new_v4().simple().to_string();
    id.truncate(8);
    id
}

/// An event as it is sent (WHATWG HTML, section 9.2.5).
fn event(id: &str, name: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".into());
    Bytes::from(format!("id: {id}\nevent: {name}\ndata: {data}\n\n"))
}
