//! The task that reads coupons for all event streams, while there are any.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Hub;
use crate::config;
use crate::coupons::catalogue::Catalogue;
use crate::partitions::Partitions;

/// Reads until it is dropped.
pub async fn run(hub: Arc<Hub>, catalogue: Catalogue, partitions: Partitions) {
    loop {
        if hub.open_streams() == 0 {
            hub.wanted.notified().await;
        }
        let number = hub.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let coupons = read(&hub, &catalogue, &partitions).await;
        hub.ended.send_replace(number);
        let pause = config::LIVE_POLL_MIN.max(config::LIVE_POLL_PER_COUPON * coupons);
        // A stream that has just opened does not wait for the whole pause.
        tokio::time::sleep(config::LIVE_POLL_SOON).await;
        drop(tokio::time::timeout(pause.saturating_sub(config::LIVE_POLL_SOON), hub.wanted.notified()).await);
    }
}

/// Reads once; returns the number of coupons.
async fn read(hub: &Hub, catalogue: &Catalogue, partitions: &Partitions) -> u32 {
    let (shows_list, mut ids) = hub.topics.get();
    let listed = shows_list.then(|| catalogue.page(None, config::LIVE_MAX_COUPONS, false));
    ids.extend(listed.iter().flatten().cloned());
    ids.sort_unstable();
    ids.dedup();
    let coupons = ids.len();
    let read = tokio::time::timeout(config::REDIS_COMMAND_TIMEOUT, partitions.snapshots(ids)).await;
    match read {
        Ok(Ok(read)) => hub.feed_mut().record(listed.as_deref(), &read),
        Ok(Err(error)) => hub.feed_mut().record_trouble(error.to_string()),
        Err(_) => hub.feed_mut().record_trouble("Redis gives no answer".into()),
    }
    u32::try_from(coupons).unwrap_or(u32::MAX)
}
