//! Reclaiming: finds entries that have been pending for too long, also by a clock that never goes back, and takes them
//! over. `worker/reclaim` records them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use fred::types::Value;

use super::keys::GROUP;
use super::lua::{PENDING, RECLAIM};
use super::order_stream::{Entries, decode_entries, page};
use super::{Redis, RedisError, array, integer, script_args, text};
use crate::config;

/// An entry of the pending entries list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    id: String,
    consumer: String,
    idle_ms: i64,
    deliveries: i64,
}

/// A delivery, and the time when this process first read it.
#[derive(Clone, Debug)]
struct Known {
    consumer: String,
    deliveries: i64,
    since: Instant,
    /// By Redis's clock, when this process first read it.
    delivered_ms: i64,
    /// The last scan that found it.
    scan: u64,
}

/// How long entries have been pending. Redis measures this time by its wall clock: if the clock steps back, an old
/// delivery looks like a new one. Therefore this process also measures the time since it first read the entry, by its
/// own monotonic clock.
#[derive(Debug, Default)]
pub struct Ages {
    known: HashMap<String, Known>,
    scan: u64,
}

impl Ages {
    /// Begins a scan of the list.
    pub const fn begin_scan(&mut self) {
        self.scan += 1;
    }

    /// Ends a scan that reached the end of the list: entries that the scan did not find are no longer pending.
    pub fn end_scan(&mut self) {
        self.known.retain(|_, known| known.scan == self.scan);
    }

    /// Whether an entry has been pending with its consumer for `min_idle`, by one of the two clocks.
    fn is_due(&mut self, pending: &Pending, redis_now_ms: i64, min_idle: Duration, now: Instant) -> bool {
        let delivered_ms = redis_now_ms - pending.idle_ms;
        let may_grow = self.known.len() < config::RECLAIM_MAX_KNOWN_ENTRIES;
        let known = match self.known.get_mut(&pending.id) {
            Some(known) if known.is_same(pending, delivered_ms) => known,
            Some(known) => {
                *known = Known::new(pending, delivered_ms, now);
                known
            }
            None if may_grow => {
                self.known.entry(pending.id.clone()).or_insert_with(|| Known::new(pending, delivered_ms, now))
            }
            None => return is_longer(pending.idle_ms, min_idle),
        };
        known.scan = self.scan;
        is_longer(pending.idle_ms, min_idle) || now.saturating_duration_since(known.since) >= min_idle
    }
}

impl Known {
    fn new(pending: &Pending, delivered_ms: i64, now: Instant) -> Self {
        let Pending { consumer, deliveries, .. } = pending;
        Self { consumer: consumer.clone(), deliveries: *deliveries, since: now, delivered_ms, scan: 0 }
    }

    /// Whether this is still the same delivery. XCLAIM JUSTID begins a new delivery without counting it. An idle time
    /// of 0 proves nothing: after a clock was set back, the delivery time may be in the future.
    fn is_same(&self, pending: &Pending, delivered_ms: i64) -> bool {
        let is_later =
            pending.idle_ms > 0 && delivered_ms > self.delivered_ms + config::RECLAIM_CLOCK_JITTER_MS;
        self.consumer == pending.consumer && self.deliveries == pending.deliveries && !is_later
    }
}

fn is_longer(idle_ms: i64, min_idle: Duration) -> bool {
    u64::try_from(idle_ms).is_ok_and(|idle_ms| Duration::from_millis(idle_ms) >= min_idle)
}

/// Takes over the entries of one page of the list that have been pending for `min_idle`. Returns these entries and the
/// start of the next page; `None` at the end. An empty page is not the end. A deleted entry stays in the list.
pub async fn reclaim(
    redis: &Redis,
    ages: &mut Ages,
    consumer: &str,
    min_idle: Duration,
    from: &str,
) -> Result<(Entries, Option<String>), RedisError> {
    let more: [Value; 3] = [GROUP.into(), from.into(), page(config::RECORD_BATCH_MAX_EVENTS)];
    let reply = array(
        redis.call("EVAL", script_args(PENDING.source(), [&*redis.keys.orders], more)).await?,
        "pending",
    )?;
    let (redis_now_ms, rows) = decode_pending(reply)?;
    let next = rows.last().map(|last| format!("({}", last.id));
    let now = Instant::now();
    let due: Vec<&Pending> =
        rows.iter().filter(|row| ages.is_due(row, redis_now_ms, min_idle, now)).collect();
    if due.is_empty() {
        return Ok((Entries::default(), next));
    }
    let mut args = script_args(RECLAIM.source(), [&*redis.keys.orders], [GROUP, consumer]);
    for Pending { id, consumer, deliveries, .. } in due {
        args.extend([id.as_str().into(), consumer.as_str().into(), (*deliveries).into()]);
    }
    let mut reply = array(redis.call("EVAL", args).await?, "reclaim")?.into_iter();
    let deleted = array(reply.next().unwrap_or(Value::Null), "reclaim: deleted")?;
    let mut entries = decode_entries(array(reply.next().unwrap_or(Value::Null), "reclaim: entries")?)?;
    entries.deleted.extend(deleted.iter().filter_map(text));
    Ok((entries, next))
}

fn decode_pending(reply: Vec<Value>) -> Result<(i64, Vec<Pending>), RedisError> {
    let mut reply = reply.into_iter();
    let now_ms = integer(&reply.next().unwrap_or(Value::Null), "pending: clock")?;
    let rows = array(reply.next().unwrap_or(Value::Null), "pending: rows")?;
    let rows = rows.into_iter().map(|row| {
        let row = array(row, "pending: row")?;
        let [id, consumer, idle_ms, deliveries] = row.as_slice() else {
            return Err(RedisError::Reply("pending: a row of another length".into()));
        };
        let word =
            |value| text(value).ok_or_else(|| RedisError::Reply("pending: a row without a name".into()));
        Ok(Pending {
            id: word(id)?,
            consumer: word(consumer)?,
            idle_ms: integer(idle_ms, "pending: idle time")?,
            deliveries: integer(deliveries, "pending: deliveries")?,
        })
    });
    Ok((now_ms, rows.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUE_AFTER: Duration = Duration::from_secs(5);

    /// A list of one entry, read once a second.
    struct List {
        ages: Ages,
        began: Instant,
        delivered_ms: i64,
        deliveries: i64,
    }

    impl List {
        fn new() -> Self {
            Self { ages: Ages::default(), began: Instant::now(), delivered_ms: 0, deliveries: 1 }
        }

        /// Reads the list after `elapsed` seconds, when Redis's clock shows `shown` seconds.
        fn is_due(&mut self, elapsed: u64, shown: i64) -> bool {
            let pending = Pending {
                id: "1-0".into(),
                consumer: "dead".into(),
                // Redis returns no idle time below 0.
                idle_ms: (shown * 1_000 - self.delivered_ms).max(0),
                deliveries: self.deliveries,
            };
            self.ages.begin_scan();
            let now = self.began + Duration::from_secs(elapsed);
            let is_due = self.ages.is_due(&pending, shown * 1_000, DUE_AFTER, now);
            self.ages.end_scan();
            is_due
        }
    }

    #[test]
    fn an_entry_is_due_in_time_if_redis_s_clock_steps_back() {
        for shown in [-600, -1, 0] {
            let mut list = List::new();
            assert!(!list.is_due(1, 1));
            for elapsed in 2..=5 {
                assert!(!list.is_due(elapsed, shown + i64::try_from(elapsed).unwrap() - 2), "{shown}");
            }
            assert!(list.is_due(6, shown + 4), "{shown}");
        }
    }

    #[test]
    fn an_entry_first_read_after_the_clock_stepped_back_is_due_after_the_whole_time() {
        let mut list = List::new();
        for elapsed in 0..5 {
            assert!(!list.is_due(elapsed, i64::try_from(elapsed).unwrap() - 600));
        }
        assert!(list.is_due(5, -595));
    }

    #[test]
    fn an_entry_that_was_idle_before_the_first_scan_is_due_at_once() {
        assert!(List::new().is_due(0, 5));
    }

    #[test]
    fn an_entry_that_is_delivered_again_starts_from_0() {
        let mut list = List::new();
        assert!(!list.is_due(0, -600));
        list.deliveries = 2;
        assert!(!list.is_due(4, -596));
        assert!(!list.is_due(8, -592));
        assert!(list.is_due(9, -591));
    }

    #[test]
    fn an_entry_whose_idle_time_is_reset_repeatedly_is_never_due() {
        let mut list = List::new();
        for elapsed in 0..100 {
            list.delivered_ms = i64::try_from(elapsed).unwrap() * 1_000 - 200;
            assert!(!list.is_due(elapsed, i64::try_from(elapsed).unwrap()), "{elapsed}");
        }
    }

    #[test]
    fn entries_that_are_no_longer_pending_are_forgotten() {
        let mut list = List::new();
        assert!(!list.is_due(0, 0));
        list.ages.begin_scan();
        list.ages.end_scan();
        assert!(list.ages.known.is_empty());
    }
}
