//! What a rebuild reads of the stream: events that nobody has acknowledged.

use std::collections::{HashMap, HashSet};

use anyhow::Context;

use crate::model::{CouponId, OrderEvent};
use crate::redis::{Redis, keys, stream};

pub struct Unacknowledged {
    /// Readable events in the order of the stream; unreadable ones are the workers' affair.
    pub events: HashMap<CouponId, Vec<(String, OrderEvent)>>,
    /// Pending ids whose entries somebody trimmed or deleted.
    pub deleted: Vec<String>,
}

/// Pending and undelivered entries. Acknowledged ones do not count.
pub async fn unacknowledged(redis: &Redis) -> anyhow::Result<Unacknowledged> {
    let mut pending: HashSet<String> = HashSet::new();
    let mut first_pending = None;
    let mut from = "-".to_owned();
    loop {
        let page = stream::pending_ids(redis, &from).await?;
        let Some(last) = page.last().cloned() else { break };
        first_pending.get_or_insert_with(|| page[0].clone());
        pending.extend(page);
        from = format!("({last}");
    }
    let groups = stream::groups(redis).await?;
    let group = groups.iter().find(|group| group.name == keys::GROUP);
    let last_delivered = group.context("the consumer group is gone again")?.last_delivered_id.clone();

    let mut events: HashMap<CouponId, Vec<(String, OrderEvent)>> = HashMap::new();
    let mut take = |entry: stream::Entry| {
        if let Ok(event) = OrderEvent::read(&entry.fields) {
            events.entry(event.coupon.clone()).or_default().push((entry.id, event));
        }
    };
    if let Some(first) = first_pending {
        let mut from = first;
        loop {
            let page = stream::range(redis, &from, &last_delivered).await?;
            let Some(last) = page.last().map(|entry| entry.id.clone()) else { break };
            page.into_iter().filter(|entry| pending.remove(&entry.id)).for_each(&mut take);
            from = format!("({last}");
        }
    }
    let mut from = format!("({last_delivered}");
    loop {
        let page = stream::range(redis, &from, "+").await?;
        let Some(last) = page.last().map(|entry| entry.id.clone()) else { break };
        page.into_iter().for_each(&mut take);
        from = format!("({last}");
    }
    Ok(Unacknowledged { events, deleted: pending.into_iter().collect() })
}
