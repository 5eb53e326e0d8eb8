//! Records a batch of entries: each entry becomes an order, or a dead letter, if possible with a rejected order. Then
//! all are acknowledged. If Postgres refuses a batch because of one event, the batch is split until that event is
//! alone.

use std::collections::HashSet;
use std::time::{Instant, SystemTime};

use super::connections::{Connections, borrow_postgres};
use super::context::Context;
use crate::config;
use crate::domain::{Epoch, OrderEvent, OrderId, UnreadableEvent};
use crate::logs::{order_step, shows_order_steps};
use crate::metrics;
use crate::postgres::dead_letters::{self, Letter, LetterOutcome, encode_fields};
use crate::postgres::notices;
use crate::postgres::orders::{self, RecordOutcome};
use crate::postgres::work::WorkConnection;
use crate::postgres::{PgConnection, PostgresError};
use crate::redis::marker::ready_marker;
use crate::redis::order_stream::{self, Entry};
use crate::redis::{Redis, RedisError, coupon_hash, scripts};

/// Why an event that Postgres can never insert is rejected.
const CONFLICT: &str = "the user has another live order of this coupon in this slot or with this key, or the slot is above the limit";

/// The entries of one read, and the epoch of the marker that was read before them: they may be recorded only in it.
#[derive(Debug)]
pub struct EventBatch {
    epoch: Epoch,
    /// Whether the entries were delivered for the first time: then no order row of them is expected.
    are_new: bool,
    readable: Vec<ReadableEntry>,
    unreadable: Vec<(Entry, UnreadableEvent)>,
}

impl EventBatch {
    pub fn new(epoch: Epoch, entries: Vec<Entry>, are_new: bool) -> Self {
        let mut readable = Vec::with_capacity(entries.len());
        let mut unreadable = Vec::new();
        for entry in entries {
            match OrderEvent::read(&entry.fields) {
                Ok(event) => readable.push(ReadableEntry { entry, event }),
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

    /// Whether the batch has `RECORD_BATCH_MAX_EVENTS` entries, the limit of one read: then the stream may have more.
    pub const fn is_full(&self) -> bool {
        self.len() >= config::RECORD_BATCH_MAX_EVENTS
    }
}

/// A batch that is committed in Postgres and not yet acknowledged.
#[derive(Debug)]
pub struct RecordedBatch {
    batch: EventBatch,
    /// A WAL position that covers the commit.
    lsn: String,
}

/// The result of recording a batch.
#[derive(Debug)]
pub enum BatchOutcome {
    /// Every entry has become an order or a dead letter, and may be acknowledged.
    Recorded(RecordedBatch),
    /// The epoch changed: nothing may be acknowledged.
    Fenced,
    /// Postgres cannot record now, for this reason. The entries stay pending until it can.
    Failed(String),
}

/// Why the recording of a batch stops.
enum RecordError {
    Fenced,
    Failed(String),
    Redis(RedisError),
}

/// An entry and the event in it.
#[derive(Debug)]
struct ReadableEntry {
    entry: Entry,
    event: OrderEvent,
}

/// Records a batch in Postgres, in at most `RECORD_TIMEOUT`. After a failure of Postgres the connections are dropped.
///
/// # Errors
/// If Redis does not answer.
pub async fn record(
    connections: &mut Connections<'_>,
    redis: &Redis,
    batch: EventBatch,
) -> Result<BatchOutcome, RedisError> {
    let context = connections.context;
    let postgres = match borrow_postgres(context, redis, &batch.epoch).await {
        Ok(postgres) => Some(postgres),
        Err(error) => return Ok(BatchOutcome::Failed(error.to_string())),
    };
    let mut recorder = BatchRecorder { context, redis, postgres, batch: &batch };
    let recording = async {
        recorder.record_all().await?;
        recorder.send_notices().await
    };
    let result = tokio::time::timeout(config::RECORD_TIMEOUT, recording).await;
    match result.unwrap_or_else(|_| Err(RecordError::Failed("the batch took too long".into()))) {
        Ok(lsn) => Ok(BatchOutcome::Recorded(RecordedBatch { batch, lsn })),
        Err(RecordError::Fenced) => Ok(BatchOutcome::Fenced),
        Err(RecordError::Failed(why)) => {
            connections.disconnect();
            Ok(BatchOutcome::Failed(why))
        }
        Err(RecordError::Redis(error)) => Err(error),
    }
}

/// Acknowledges a recorded batch; `false` if the epoch has changed, and then nothing is acknowledged.
///
/// # Errors
/// If Redis does not answer.
pub async fn acknowledge(
    context: &Context,
    redis: &Redis,
    recorded: &RecordedBatch,
) -> Result<bool, RedisError> {
    let EventBatch { epoch, readable, unreadable, .. } = &recorded.batch;
    let entries = readable.iter().map(|readable| &readable.entry);
    let ids = entries.chain(unreadable.iter().map(|(entry, _)| entry)).map(|entry| entry.id.as_str());
    match scripts::acknowledge(redis, &ready_marker(epoch), &recorded.lsn, ids).await {
        Ok(acknowledged) => {
            if acknowledged.is_some() && shows_order_steps() {
                for ReadableEntry { entry, event } in readable {
                    order_step!(event.order, entry = entry.id, "acknowledged");
                }
            }
            Ok(acknowledged.is_some())
        }
        Err(error @ (RedisError::WrongType(_) | RedisError::NoScript)) => {
            context.fence.redis_failed(epoch, &error);
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

struct BatchRecorder<'a> {
    context: &'a Context,
    redis: &'a Redis,
    /// Given back before each wait for Redis.
    postgres: Option<WorkConnection>,
    batch: &'a EventBatch,
}

impl BatchRecorder<'_> {
    async fn postgres(&mut self) -> Result<&mut PgConnection, RecordError> {
        let postgres = match self.postgres.take() {
            Some(postgres) => postgres,
            None => {
                borrow_postgres(self.context, self.redis, &self.batch.epoch).await.map_err(postgres_failed)?
            }
        };
        Ok(self.postgres.insert(postgres))
    }

    fn give_back_postgres(&mut self) {
        if let Some(postgres) = self.postgres.take() {
            postgres.give_back();
        }
    }

    /// After a refused row, before the connection is given back.
    async fn settle_postgres(&mut self) -> Result<(), RecordError> {
        match &mut self.postgres {
            Some(postgres) => postgres.settle().await.map_err(postgres_failed),
            None => Ok(()),
        }
    }

    /// Tells other processes which orders are recorded. Returns a WAL position that covers all commits of the batch.
    async fn send_notices(&mut self) -> Result<String, RecordError> {
        let EventBatch { readable, unreadable, epoch, .. } = self.batch;
        let readable = readable.iter().map(|readable| readable.event.order);
        let orders: Vec<_> = readable.chain(unreadable.iter().filter_map(|(_, why)| why.order)).collect();
        let position =
            notices::send(self.postgres().await?, epoch, &orders).await.map_err(postgres_failed)?;
        self.give_back_postgres();
        position.ok_or(RecordError::Fenced)
    }

    async fn record_all(&mut self) -> Result<(), RecordError> {
        let mut parts = vec![self.batch.readable.as_slice()];
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
        // Last, so that the orders do not wait: each of these entries takes a transaction.
        for (entry, why) in &self.batch.unreadable {
            self.keep_unreadable(entry, why.order, &why.reason).await?;
        }
        Ok(())
    }

    /// Records a part in one transaction. Returns the reason if Postgres refuses one of its events; then nothing of
    /// the part is recorded.
    async fn record_part(&mut self, part: &[ReadableEntry]) -> Result<Option<String>, RecordError> {
        let events: Vec<&OrderEvent> = part.iter().map(|readable| &readable.event).collect();
        let EventBatch { epoch, are_new, .. } = self.batch;
        let postgres = self.postgres().await?;
        let begun = Instant::now();
        let outcome = if *are_new {
            orders::record_new(postgres, epoch, &events).await
        } else {
            orders::record(postgres, epoch, &events).await
        };
        metrics::TRANSACTION_DURATION.observe_since("record", begun);
        match outcome {
            Ok(RecordOutcome::Done { inserted, conflicting }) => {
                report_recorded(part, &inserted);
                self.announce(&inserted).await;
                self.reject_conflicting(part, &conflicting).await?;
                Ok(None)
            }
            Ok(RecordOutcome::Fenced) => Err(RecordError::Fenced),
            Ok(RecordOutcome::StockShort(coupon)) => {
                Ok(Some(format!("coupon {coupon} has no stock left in Postgres")))
            }
            Ok(RecordOutcome::UnknownCoupon(coupon)) => {
                self.give_back_postgres();
                if coupon_hash::snapshot(self.redis, &coupon).await.map_err(RecordError::Redis)?.is_some() {
                    // The event is valid: Postgres has lost the coupon.
                    let what = format!("Postgres does not know coupon {coupon}, which Redis sells");
                    self.context.fence.invalidate(&self.batch.epoch, &what);
                    return Err(RecordError::Fenced);
                }
                Ok(Some(format!("neither store knows coupon {coupon}")))
            }
            Err(PostgresError::Row(why)) => {
                self.settle_postgres().await?;
                Ok(Some(why))
            }
            Err(error) => Err(postgres_failed(error)),
        }
    }

    /// Sends orders that were just inserted to the requests that wait for them.
    async fn announce(&mut self, inserted: &[OrderId]) {
        let waiters = &self.context.waiters;
        let waited_for = waiters.waited_for(inserted);
        if waited_for.is_empty() {
            return;
        }
        let Ok(postgres) = self.postgres().await else { return };
        match orders::get_many(postgres, &waited_for).await {
            Ok(orders) => waiters.announce(&orders),
            // Not needed: the waiters also hear the notice.
            Err(error) => {
                tracing::debug!("cannot read orders for their waiters: {error}");
                self.postgres = None;
            }
        }
    }

    /// Ends events that conflict with another live order, after the other events of their batch are recorded. First
    /// tries each event again alone: the transaction of the other order may have been rolled back.
    async fn reject_conflicting(
        &mut self,
        part: &[ReadableEntry],
        conflicting: &[OrderId],
    ) -> Result<(), RecordError> {
        for readable in part.iter().filter(|readable| conflicting.contains(&readable.event.order)) {
            let epoch = &self.batch.epoch;
            let again = orders::record(self.postgres().await?, epoch, &[&readable.event]).await;
            match again.map_err(postgres_failed)? {
                RecordOutcome::Done { inserted, conflicting } if conflicting.is_empty() => {
                    report_recorded(std::slice::from_ref(readable), &inserted);
                    self.announce(&inserted).await;
                }
                RecordOutcome::Fenced => return Err(RecordError::Fenced),
                _ => self.reject(readable, CONFLICT).await?,
            }
        }
        Ok(())
    }

    /// Ends an event as a rejected order with a dead letter. If Postgres refuses the order row, writes only the dead
    /// letter.
    async fn reject(&mut self, readable: &ReadableEntry, why: &str) -> Result<(), RecordError> {
        let event = &readable.event;
        let letter = self.letter(&readable.entry, why).await?;
        let epoch = &self.batch.epoch;
        let work = dead_letters::reject(self.postgres().await?, epoch, event, &letter);
        match metrics::TRANSACTION_DURATION.time("reject", work).await {
            Ok(LetterOutcome::Written) => {
                metrics::DEAD_LETTERS.add(1);
                order_step!(event.order, coupon = %event.coupon, entry = readable.entry.id, "rejected: {why}");
                self.context.unit_waits.notify_one();
                tracing::warn!(order = %event.order, coupon = %event.coupon, "order {} rejected: {why}", event.order);
            }
            Ok(LetterOutcome::AlreadyEnded) => {}
            Ok(LetterOutcome::Fenced) => return Err(RecordError::Fenced),
            Err(PostgresError::Row(why)) => {
                self.settle_postgres().await?;
                return self.keep_unreadable(&readable.entry, Some(event.order), &why).await;
            }
            Err(error) => return Err(postgres_failed(error)),
        }
        match orders::get(self.postgres().await?, event.order).await {
            Ok(order) => self.context.waiters.announce(order.as_slice()),
            Err(_) => self.postgres = None,
        }
        Ok(())
    }

    /// Ends an entry as a dead letter without an order.
    async fn keep_unreadable(
        &mut self,
        entry: &Entry,
        order: Option<OrderId>,
        why: &str,
    ) -> Result<(), RecordError> {
        let letter = self.letter(entry, why).await?;
        let epoch = &self.batch.epoch;
        match dead_letters::keep_unreadable(self.postgres().await?, epoch, order, &letter).await {
            Ok(LetterOutcome::Written) => {
                metrics::DEAD_LETTERS.add(1);
                tracing::warn!(entry = entry.id, "entry {} is a dead letter: {why}", entry.id);
                Ok(())
            }
            Ok(LetterOutcome::AlreadyEnded) => Ok(()),
            Ok(LetterOutcome::Fenced) => Err(RecordError::Fenced),
            Err(error) => Err(postgres_failed(error)),
        }
    }

    async fn letter<'l>(&mut self, entry: &'l Entry, why: &'l str) -> Result<Letter<'l>, RecordError> {
        self.give_back_postgres();
        let deliveries =
            order_stream::delivery_count(self.redis, &entry.id).await.map_err(RecordError::Redis)?;
        Ok(Letter {
            entry_id: Some(&entry.id),
            fields: encode_fields(&entry.fields),
            error: why,
            deliveries: Some(deliveries),
        })
    }
}

/// Counts recorded orders, measures the time since their entries were appended, and logs each of them.
fn report_recorded(part: &[ReadableEntry], inserted: &[OrderId]) {
    metrics::ORDERS_RECORDED.add(inserted.len() as u64);
    let is_whole = inserted.len() == part.len();
    let orders: HashSet<OrderId> = if is_whole { HashSet::new() } else { inserted.iter().copied().collect() };
    let recorded = || part.iter().filter(|readable| is_whole || orders.contains(&readable.event.order));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    metrics::WINDOW_SECONDS.observe_all(
        recorded().map(|readable| now.saturating_sub(order_stream::appended_at(&readable.entry.id))),
    );
    if shows_order_steps() {
        for ReadableEntry { entry, event } in recorded() {
            order_step!(event.order, coupon = %event.coupon, entry = entry.id, "recorded");
        }
    }
}

/// The result after an error of Postgres: the entries stay pending. Logs a refused statement as an error, since it
/// needs a change of the program or the schema.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn postgres_failed(error: PostgresError) -> RecordError {
    if let PostgresError::Statement(why) = &error {
        tracing::error!("cannot record orders: Postgres refuses a statement: {why}");
    }
    RecordError::Failed(error.to_string())
}
