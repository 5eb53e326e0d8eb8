//! What the event streams of coupons send: the newest event of each coupon, by the number of its change. A stream
//! remembers only the number that it has sent; a slow client skips changes and never makes a queue.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::time::Instant;

use bytes::Bytes;
use serde_json::json;

use super::event;
use crate::config;
use crate::coupons::view::CouponView;
use crate::domain::{CouponId, CouponSnapshot, rfc3339};

/// What a stream shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The listed coupons.
    Listed,
    /// One coupon, listed or not.
    One(CouponId),
}

pub struct Feed {
    /// Differs in each process, so that a number of another process resumes nothing.
    hub: String,
    last: u64,
    coupons: BTreeMap<CouponId, Known>,
    changes: BTreeMap<u64, Change>,
    /// Numbers of the coupons that left the list.
    gone: VecDeque<u64>,
    /// The highest number whose `gone` event was dropped.
    forgotten: u64,
    /// When the stores were last read, and Redis's clock then, ms since 1970.
    read: Option<(Instant, i64)>,
    /// Why the stores cannot be read.
    trouble: Option<String>,
}

struct Known {
    /// The number of its newest change.
    number: u64,
    fingerprint: u64,
    listed: bool,
}

struct Change {
    coupon: CouponId,
    listed: bool,
    event: Bytes,
}

impl Feed {
    pub fn new(hub: String) -> Self {
        Self {
            hub,
            last: 0,
            coupons: BTreeMap::new(),
            changes: BTreeMap::new(),
            gone: VecDeque::new(),
            forgotten: 0,
            read: None,
            trouble: None,
        }
    }

    /// Takes a successful read of the coupons. `listed` is `None` if no stream shows the list.
    pub fn record(&mut self, listed: Option<&[CouponId]>, read: &[impl AsRef<CouponSnapshot>]) {
        for snapshot in read.iter().map(AsRef::as_ref) {
            let is_listed = listed.map_or_else(
                || self.coupons.get(&snapshot.id).is_some_and(|known| known.listed),
                |listed| listed.contains(&snapshot.id),
            );
            self.record_coupon(snapshot, is_listed);
        }
        let seen: BTreeSet<&CouponId> = read.iter().map(|snapshot| &snapshot.as_ref().id).collect();
        let is_over = |id: &CouponId, known: &Known| {
            // Without a stream of the list, its coupons were not read.
            if known.listed { listed.is_some() && !seen.contains(id) } else { !seen.contains(id) }
        };
        let over: Vec<CouponId> =
            self.coupons.iter().filter(|(id, known)| is_over(id, known)).map(|(id, _)| id.clone()).collect();
        for id in over {
            self.remove(id);
        }
        let now_ms = read.iter().map(|snapshot| snapshot.as_ref().now_ms).max();
        let now_ms = now_ms.or_else(|| self.server_now_ms());
        self.read = now_ms.map(|now_ms| (Instant::now(), now_ms));
        self.trouble = None;
    }

    /// Takes a failed read.
    pub fn record_trouble(&mut self, why: String) {
        self.trouble = Some(why);
    }

    fn record_coupon(&mut self, snapshot: &CouponSnapshot, listed: bool) {
        let mut hasher = DefaultHasher::new();
        snapshot.hash_shown(&mut hasher);
        let fingerprint = hasher.finish();
        if let Some(known) = self.coupons.get(&snapshot.id) {
            if known.fingerprint == fingerprint && known.listed == listed {
                return;
            }
            self.changes.remove(&known.number);
        }
        let number = self.next_number();
        let event = event(&self.id(number), "coupon", &CouponView::from(snapshot));
        self.coupons.insert(snapshot.id.clone(), Known { number, fingerprint, listed });
        self.changes.insert(number, Change { coupon: snapshot.id.clone(), listed, event });
    }

    fn remove(&mut self, id: CouponId) {
        let Some(known) = self.coupons.remove(&id) else { return };
        self.changes.remove(&known.number);
        if !known.listed {
            return;
        }
        let number = self.next_number();
        let event = event(&self.id(number), "gone", &json!({"id": id}));
        self.changes.insert(number, Change { coupon: id, listed: true, event });
        self.gone.push_back(number);
        if self.gone.len() > config::LIVE_GONE_MAX_COUPONS
            && let Some(oldest) = self.gone.pop_front()
        {
            self.changes.remove(&oldest);
            self.forgotten = oldest;
        }
    }

    const fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.hub)
    }

    /// The number from which a stream with this `Last-Event-ID` continues; `None` if it must get everything.
    pub fn resume(&self, last_event_id: &str) -> Option<u64> {
        let (hub, number) = last_event_id.split_once('-')?;
        let number: u64 = number.parse().ok()?;
        (hub == self.hub && (self.forgotten..=self.last).contains(&number)).then_some(number)
    }

    /// The newest events after a number, at most `LIVE_WRITE_MAX_EVENTS`; the number up to which they are complete; and
    /// whether there are more.
    pub fn since(&self, topic: &Topic, number: u64) -> (Vec<Bytes>, u64, bool) {
        let newer = self.changes.range(number + 1..).filter(|(_, change)| match topic {
            Topic::Listed => change.listed,
            Topic::One(id) => change.coupon == *id,
        });
        let mut newer = newer.take(config::LIVE_WRITE_MAX_EVENTS + 1);
        let (mut events, mut up_to) = (Vec::new(), number);
        for (number, change) in newer.by_ref().take(config::LIVE_WRITE_MAX_EVENTS) {
            events.push(change.event.clone());
            up_to = *number;
        }
        if newer.next().is_some() { (events, up_to, true) } else { (events, self.last, false) }
    }

    /// First event of a stream that gets everything.
    pub fn reset(&self) -> Bytes {
        event(&self.id(0), "reset", &json!({}))
    }

    /// The state of the feed after the events up to `number`: `current`, or `stale` if the stores cannot be read.
    pub fn heartbeat(&self, topic: &Topic, number: u64) -> Bytes {
        let id = self.id(number);
        let server_time = self.server_now_ms().map(rfc3339);
        if let Some(why) = &self.trouble {
            let since = self.read.map(|(_, now_ms)| rfc3339(now_ms));
            return event(&id, "stale", &json!({"since": since, "why": why}));
        }
        let coupons = match topic {
            Topic::Listed => self.coupons.values().filter(|known| known.listed).count(),
            Topic::One(id) => usize::from(self.coupons.contains_key(id)),
        };
        event(&id, "current", &json!({"server_time": server_time, "coupons": coupons}))
    }

    /// Whether the stores cannot be read.
    pub const fn is_stale(&self) -> bool {
        self.trouble.is_some()
    }

    /// Redis's clock now, ms since 1970; `None` if no coupon was ever read.
    fn server_now_ms(&self) -> Option<i64> {
        let (at, now_ms) = self.read?;
        Some(now_ms + i64::try_from(at.elapsed().as_millis()).unwrap_or(0))
    }
}
