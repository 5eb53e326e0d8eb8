//! One event stream of coupons. Wakes at its own pace, not with each change: many streams then share the time between
//! two wakes evenly.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Hub;
use super::feed::Topic;
use super::topics::Watched;
use crate::config;

/// The state of one stream.
pub struct Subscriber {
    pub hub: Arc<Hub>,
    pub topic: Topic,
    /// The number up to which its events are sent.
    pub sent: u64,
    /// Whether the first event is `reset`.
    pub resets: bool,
    /// Dropped with the stream: they end its reads, and make room for another stream.
    pub _held: (Watched, OwnedSemaphorePermit),
}

impl Subscriber {
    /// The events, until the server stops. The stream also ends when its connection drops it.
    pub fn events(self) -> impl Stream<Item = Bytes> + Send + 'static {
        let next_wake = Instant::now();
        let writer = Writer { subscriber: self, next_wake, heartbeat_due: next_wake, was_stale: false };
        futures_util::stream::unfold(writer, Writer::next)
    }
}

struct Writer {
    subscriber: Subscriber,
    next_wake: Instant,
    heartbeat_due: Instant,
    was_stale: bool,
}

impl Writer {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        let hub = self.subscriber.hub.clone();
        loop {
            tokio::select! {
                biased;
                () = hub.stop.cancelled() => return None,
                () = tokio::time::sleep_until(self.next_wake) => {}
            }
            let (bytes, more) = self.collect();
            if !more {
                self.next_wake = Instant::now() + interval(hub.open_streams());
            }
            if !bytes.is_empty() {
                return Some((bytes, self));
            }
        }
    }

    /// What is due now; whether there is more.
    fn collect(&mut self) -> (Bytes, bool) {
        let now = Instant::now();
        let subscriber = &mut self.subscriber;
        let feed = subscriber.hub.feed();
        let (mut events, sent, more) = feed.since(&subscriber.topic, subscriber.sent);
        subscriber.sent = sent;
        if std::mem::take(&mut subscriber.resets) {
            events.insert(0, feed.reset());
        }
        if !more && (self.heartbeat_due <= now || self.was_stale != feed.is_stale()) {
            events.push(feed.heartbeat(&subscriber.topic, sent));
            self.heartbeat_due = now + config::LIVE_HEARTBEAT;
            self.was_stale = feed.is_stale();
        }
        drop(feed);
        let bytes = match <[Bytes; 1]>::try_from(events) {
            Ok([single]) => single,
            Err(events) => {
                let mut bytes = BytesMut::with_capacity(events.iter().map(Bytes::len).sum());
                for event in &events {
                    bytes.extend_from_slice(event);
                }
                bytes.freeze()
            }
        };
        (bytes, more)
    }
}

/// The time between two wakes of one stream while this many are open.
fn interval(streams: usize) -> Duration {
    let streams = u32::try_from(streams).unwrap_or(u32::MAX);
    let shared = Duration::from_secs(1) * streams / config::LIVE_MAX_WAKES;
    shared.clamp(config::LIVE_WRITE_INTERVAL, config::LIVE_WRITE_INTERVAL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_streams_are_woken_less_often_but_before_a_page_takes_its_connection_for_lost() {
        assert_eq!(interval(1), config::LIVE_WRITE_INTERVAL);
        assert_eq!(interval(5_000), Duration::from_secs(2));
        assert_eq!(interval(1_000_000), config::LIVE_WRITE_INTERVAL_MAX);
    }
}
