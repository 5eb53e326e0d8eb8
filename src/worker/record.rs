//! Ends a batch of entries: each becomes an order, or a rejected one with its dead letter, then all are
//! acknowledged. A batch that Postgres refuses for one event's sake is split down to that event.

use super::{Context, Link};
use crate::config;
use crate::domain::{Order, OrderEvent, OrderId, UnreadableEvent};
use crate::metrics;
use crate::postgres::dead_letters::{self, Letter, encode_fields};
use crate::postgres::orders::{self, RecordOutcome};
use crate::postgres::{self, PgConnection, PostgresError};
use crate::redis::order_stream::{self, Entry};
use crate::redis::scripts::{self, ready_marker};
use crate::redis::{Redis, RedisError, info};

/// Entries of one read, and the epoch of the marker that was read before them: under no other may they be recorded.
#[derive(Debug)]
pub struct Handed {
    epoch: String,
    /// They were never delivered before, and are not expected to be recorded already.
    are_new: bool,
    readable: Vec<Readable>,
    unreadable: Vec<(Entry, UnreadableEvent)>,
}

impl Handed {
    pub fn new(epoch: String, entries: Vec<Entry>, are_new: bool) -> Self {
        let mut readable = Vec::with_capacity(entries.len());
        let mut unreadable = Vec::new();
        for entry in entries {
            match OrderEvent::read(&entry.fields) {
                Ok(event) => readable.push(Readable { entry, event }),
                Err(why) => unreadable.push((entry, why)),
            }
        }
        Self { epoch, are_new, readable, unreadable }
    }

    pub const fn len(&self) -> usize {
        self.readable.len() + self.unreadable.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As many as are read at once: more may wait.
    pub const fn is_full(&self) -> bool {
        self.len() >= config::RECORD_BATCH_MAX_EVENTS
    }
}

/// Entries that have ended in Postgres, and how far its WAL was durable then.
#[derive(Debug)]
pub struct Unacknowledged {
    handed: Handed,
    lsn: String,
}

/// How a batch ended.
#[derive(Debug)]
pub enum Ended {
    /// Every entry is recorded or dead, and may be acknowledged.
    All(Unacknowledged),
    /// The agreement changed; nothing is to be acknowledged.
    Fenced,
    /// Postgres cannot serve now: the entries stay pending, for as long as it takes.
    Failed(String),
}

/// Why a batch goes no further.
enum Halt {
    Fenced,
    Failed(String),
    Redis(RedisError),
}

/// An entry that can be read, beside what it says.
#[derive(Debug)]
struct Readable {
    entry: Entry,
    event: OrderEvent,
}

/// Ends a batch in Postgres.
pub async fn record(link: &mut Link<'_>, redis: &Redis, handed: Handed) -> Result<Ended, RedisError> {
    let context = link.context;
    let postgres = match link.postgres(redis, &handed.epoch).await {
        Ok(postgres) => postgres,
        Err(error) => return Ok(Ended::Failed(error.to_string())),
    };
    let mut batch = Batch { context, redis, postgres: &mut *postgres, handed: &handed };
    let ended = tokio::time::timeout(config::RECORD_TIMEOUT, batch.end()).await;
    match ended.unwrap_or_else(|_| Err(Halt::Failed("the batch took too long".into()))) {
        Ok(()) => {}
        Err(Halt::Fenced) => return Ok(Ended::Fenced),
        Err(Halt::Failed(why)) => {
            link.broken();
            return Ok(Ended::Failed(why));
        }
        Err(Halt::Redis(error)) => return Err(error),
    }
    match postgres::fence::durable_lsn(postgres).await {
        Ok(lsn) => Ok(Ended::All(Unacknowledged { handed, lsn })),
        Err(error) => {
            link.broken();
            Ok(Ended::Failed(error.to_string()))
        }
    }
}

/// Acknowledges what has ended; `false` where the agreement has changed.
pub async fn acknowledge(
    context: &Context,
    redis: &Redis,
    ended: &Unacknowledged,
) -> Result<bool, RedisError> {
    let Handed { epoch, readable, unreadable, .. } = &ended.handed;
    let entries = readable.iter().map(|readable| &readable.entry);
    let ids = entries.chain(unreadable.iter().map(|(entry, _)| entry)).map(|entry| entry.id.as_str());
    match scripts::acknowledge(redis, &ready_marker(epoch), &ended.lsn, ids).await {
        Ok(acknowledged) => Ok(acknowledged.is_some()),
        Err(error @ (RedisError::WrongType(_) | RedisError::NoScript)) => {
            context.fence.redis_failed(epoch, &error);
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

struct Batch<'a> {
    context: &'a Context,
    redis: &'a Redis,
    postgres: &'a mut PgConnection,
    handed: &'a Handed,
}

impl Batch<'_> {
    async fn end(&mut self) -> Result<(), Halt> {
        let mut parts = vec![self.handed.readable.as_slice()];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            if let Some(refusal) = self.record_part(part).await? {
                if let [single] = part {
                    self.reject(single, &refusal).await?;
                } else {
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([right, left]);
                }
            }
        }
        // Last, for each takes a transaction of its own: nobody's order waits for them.
        for (entry, why) in &self.handed.unreadable {
            self.keep_unreadable(entry, why.order, &why.reason).await?;
        }
        Ok(())
    }

    /// Records a part in one transaction; answers why Postgres refuses it, if one event is at fault.
    async fn record_part(&mut self, part: &[Readable]) -> Result<Option<String>, Halt> {
        let events: Vec<&OrderEvent> = part.iter().map(|readable| &readable.event).collect();
        let recorded = if self.handed.are_new {
            orders::record_new(self.postgres, &self.handed.epoch, &events).await
        } else {
            orders::record(self.postgres, &self.handed.epoch, &events).await
        };
        match recorded {
            Ok(RecordOutcome::Done { inserted, conflicting }) => {
                self.announce(&inserted).await;
                self.reject_conflicting(part, &conflicting).await?;
                Ok(None)
            }
            Ok(RecordOutcome::Fenced) => Err(Halt::Fenced),
            Ok(RecordOutcome::StockShort(coupon)) => {
                Ok(Some(format!("coupon {coupon} has no stock left in Postgres")))
            }
            Ok(RecordOutcome::UnknownCoupon(coupon)) => {
                if info::coupon(self.redis, &coupon).await.map_err(Halt::Redis)?.is_some() {
                    // Not a bad event but a lost database.
                    let what = format!("Postgres does not know coupon {coupon}, which Redis sells");
                    self.context.fence.lost(&self.handed.epoch, &what);
                    return Err(Halt::Fenced);
                }
                Ok(Some(format!("no coupon {coupon} is known")))
            }
            Err(PostgresError::Row(why)) => Ok(Some(why)),
            Err(error) => Err(halt(error)),
        }
    }

    /// Tells those who wait for these orders, which were just written.
    async fn announce(&mut self, inserted: &[OrderId]) {
        metrics::ORDERS_RECORDED.add(inserted.len() as u64);
        let recorded = &self.context.waiters;
        let waited_for = recorded.waited_for(inserted);
        if waited_for.is_empty() {
            return;
        }
        match orders::get_many(&mut *self.postgres, &waited_for).await {
            Ok(orders) => recorded.announce(&orders),
            // The poll for other processes' orders finds them, too.
            Err(error) => tracing::debug!("orders that are waited for: {error}"),
        }
    }

    /// The rest of their batch is recorded; these are tried once more alone, for their rival may have been
    /// a transaction that did not last.
    async fn reject_conflicting(&mut self, part: &[Readable], conflicting: &[OrderId]) -> Result<(), Halt> {
        for readable in part.iter().filter(|readable| conflicting.contains(&readable.event.order)) {
            match orders::record(self.postgres, &self.handed.epoch, &[&readable.event]).await.map_err(halt)? {
                RecordOutcome::Done { inserted, conflicting } if conflicting.is_empty() => {
                    self.announce(&inserted).await;
                }
                RecordOutcome::Fenced => return Err(Halt::Fenced),
                _ => self.reject(readable, "the user has another live order of this coupon").await?,
            }
        }
        Ok(())
    }

    async fn reject(&mut self, readable: &Readable, why: &str) -> Result<(), Halt> {
        let event = &readable.event;
        let letter = self.letter(&readable.entry, why).await?;
        match dead_letters::reject(self.postgres, &self.handed.epoch, event, &letter).await {
            Ok(dead_letters::LetterOutcome::Written) => {
                metrics::DEAD_LETTERS.add(1);
                self.context.unit_waits.notify_one();
                tracing::warn!(order = %event.order, coupon = %event.coupon, "order {} rejected: {why}", event.order);
            }
            Ok(dead_letters::LetterOutcome::AlreadyEnded) => {}
            Ok(dead_letters::LetterOutcome::Fenced) => return Err(Halt::Fenced),
            Err(PostgresError::Row(why)) => {
                return self.keep_unreadable(&readable.entry, Some(event.order), &why).await;
            }
            Err(error) => return Err(halt(error)),
        }
        if let Ok(Some(order)) = orders::get(&mut *self.postgres, event.order).await {
            let orders: [Order; 1] = [order];
            self.context.waiters.announce(&orders);
        }
        Ok(())
    }

    async fn keep_unreadable(
        &mut self,
        entry: &Entry,
        order: Option<OrderId>,
        why: &str,
    ) -> Result<(), Halt> {
        let letter = self.letter(entry, why).await?;
        match dead_letters::keep_unreadable(self.postgres, &self.handed.epoch, order, &letter).await {
            Ok(dead_letters::LetterOutcome::Written) => {
                metrics::DEAD_LETTERS.add(1);
                tracing::warn!(entry = entry.id, "entry {} is a dead letter: {why}", entry.id);
                Ok(())
            }
            Ok(dead_letters::LetterOutcome::AlreadyEnded) => Ok(()),
            Ok(dead_letters::LetterOutcome::Fenced) => Err(Halt::Fenced),
            Err(error) => Err(halt(error)),
        }
    }

    async fn letter<'l>(&self, entry: &'l Entry, why: &'l str) -> Result<Letter<'l>, Halt> {
        let deliveries = order_stream::delivery_count(self.redis, &entry.id).await.map_err(Halt::Redis)?;
        Ok(Letter {
            entry_id: Some(&entry.id),
            fields: encode_fields(&entry.fields),
            error: why,
            deliveries: Some(deliveries),
        })
    }
}

/// Anything but a row's own fault keeps the entries pending; what is ours to mend is logged as an error.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn halt(error: PostgresError) -> Halt {
    if let PostgresError::Statement(why) = &error {
        tracing::error!("recording is stuck on a statement that Postgres refuses: {why}");
    }
    Halt::Failed(error.to_string())
}
