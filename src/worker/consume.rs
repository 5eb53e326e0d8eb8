//! One consumer: reads new entries and records them. After a failure the consumer first reads its own pending entries,
//! so that it forgets no delivered entry. `reclaim` handles the pending entries of other consumers.
//!
//! Under a backlog, Redis and Postgres work at the same time: while the worker records a batch, it acknowledges the
//! batch before and reads the next one. A second consumer then reads too, so that Postgres inserts one batch while it
//! flushes another. With fewer events a second consumer would only make smaller batches.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::connections::Connections;
use super::context::Context;
use super::pause::{backoff, pause};
use super::record::{BatchOutcome, EventBatch, RecordedBatch, acknowledge, record};
use super::stall::Stall;
use crate::config;
use crate::redis::{Redis, RedisError, marker, order_stream};

/// When a consumer reads.
#[derive(Clone)]
pub enum ConsumerMode {
    /// Always; notifies the backlog consumer of a full batch.
    Always(Arc<Notify>),
    /// Only after such a notification, as long as batches are full.
    Backlog(Arc<Notify>),
}

/// Reads and records until `stop`; then ends the batch that it has read, and leaves the group.
pub async fn run(context: Arc<Context>, name: String, mode: ConsumerMode, stop: CancellationToken) {
    let mut consumer = Consumer {
        context: &context,
        name: &name,
        // A new backlog consumer has no pending entries, and a read would already add it to the group.
        reads_pending: matches!(mode, ConsumerMode::Always(_)),
        mode,
        connections: Connections::new(&context),
        batch_started: None,
        next: None,
        unacknowledged: None,
    };
    let mut stall = Stall::default();
    let mut delays = backoff();
    while !stop.is_cancelled() || consumer.next.is_some() {
        match consumer.step(&stop).await {
            Ok(Step::Empty) => {
                stall.record_empty(&name);
                consumer.reads_pending = false;
            }
            Ok(Step::Recorded) => {
                stall.record_success(&name);
                delays = backoff();
            }
            Ok(Step::Restart) => consumer.restart(),
            Ok(Step::Failed(why)) => {
                stall.record_failure(&name, &why);
                consumer.restart();
                pause(delays.next().unwrap_or_default(), &stop).await;
            }
            Err(error) => {
                stall.record_failure(&name, &error.to_string());
                consumer.connections.disconnect();
                consumer.restart();
                pause(delays.next().unwrap_or_default(), &stop).await;
            }
        }
    }
    context.leave_group(&name).await;
}

/// The result of one read and its recording.
enum Step {
    /// There was no entry to read.
    Empty,
    Recorded,
    /// The epoch changed, or there is none: the consumer reads the marker again, then its own pending entries.
    Restart,
    /// Postgres cannot record now, for this reason.
    Failed(String),
}

struct Consumer<'a> {
    context: &'a Context,
    name: &'a str,
    mode: ConsumerMode,
    connections: Connections<'a>,
    /// Reads its own pending entries, until there are none; then new ones.
    reads_pending: bool,
    /// When the recording of the last batch began.
    batch_started: Option<Instant>,
    /// The batch that was read during the last recording, and the connection that read it.
    next: Option<(Redis, EventBatch)>,
    /// The batch to acknowledge during the next recording.
    unacknowledged: Option<RecordedBatch>,
}

impl Consumer<'_> {
    /// Drops the batches in memory and reads the pending entries again, which include those of the dropped batches.
    fn restart(&mut self) {
        self.reads_pending = true;
        self.next = None;
        self.unacknowledged = None;
    }

    async fn step(&mut self, stop: &CancellationToken) -> Result<Step, RedisError> {
        let (redis, batch) = match self.next.take() {
            Some(next) => next,
            None => match self.read(stop).await? {
                Some(read) => read,
                None => return Ok(Step::Restart),
            },
        };
        if batch.is_empty() {
            return Ok(Step::Empty);
        }
        self.batch_started = Some(Instant::now());
        let reads_ahead = batch.is_full() && !self.reads_pending && !stop.is_cancelled();
        let (context, name, previous) = (self.context, self.name, self.unacknowledged.take());
        let acknowledge_and_read = async {
            match &previous {
                Some(previous) if !acknowledge(context, &redis, previous).await? => Ok(None),
                _ if reads_ahead => read_ahead(&redis, name).await,
                _ => Ok(None),
            }
        };
        let (outcome, next) =
            tokio::join!(record(&mut self.connections, &redis, batch), acknowledge_and_read);
        let next = next?;
        if let (ConsumerMode::Always(backlog), Some(next)) = (&self.mode, &next)
            && next.is_full()
        {
            backlog.notify_one();
        }
        match outcome? {
            BatchOutcome::Recorded(recorded) if next.is_some() => {
                self.unacknowledged = Some(recorded);
                self.next = next.map(|next| (redis, next));
                Ok(Step::Recorded)
            }
            BatchOutcome::Recorded(recorded) if acknowledge(context, &redis, &recorded).await? => {
                Ok(Step::Recorded)
            }
            BatchOutcome::Recorded(_) | BatchOutcome::Fenced => Ok(Step::Restart),
            BatchOutcome::Failed(why) => Ok(Step::Failed(why)),
        }
    }

    /// Reads the marker, then waits for entries; `None` at `stop`, and if there is no epoch or the stream is damaged.
    async fn read(&mut self, stop: &CancellationToken) -> Result<Option<(Redis, EventBatch)>, RedisError> {
        if let Some(started) = self.batch_started {
            // Under load, the events that arrive in this interval share one commit. The first event after a pause
            // does not wait.
            tokio::time::sleep_until((started + config::RECORD_INTERVAL).into()).await;
        }
        if let (ConsumerMode::Backlog(backlog), false) = (&self.mode, self.reads_pending) {
            tokio::select! {
                () = backlog.notified() => {}
                () = stop.cancelled() => return Ok(None),
            }
        }
        let Some((redis, epoch)) = self.connections.redis(stop).await? else { return Ok(None) };
        if stop.is_cancelled() {
            return Ok(None);
        }
        let read = if self.reads_pending {
            order_stream::read_pending(&redis, self.name, "0").await
        } else {
            match self.mode {
                ConsumerMode::Always(_) => order_stream::wait_for_new(&redis, self.name).await,
                ConsumerMode::Backlog(_) => order_stream::read_new(&redis, self.name).await,
            }
        };
        let read = match read {
            Err(error @ (RedisError::NoGroup(_) | RedisError::WrongType(_) | RedisError::Moved(_))) => {
                self.context.fence.redis_failed(&epoch, &error);
                return Ok(None);
            }
            read => read?,
        };
        if !read.deleted.is_empty() {
            self.context.report_deleted(&redis, read.deleted.len()).await?;
            return Ok(None);
        }
        Ok(Some((redis, EventBatch::new(epoch, read.entries, !self.reads_pending))))
    }
}

/// The next entries, if there are any and Redis has a `ready` marker.
async fn read_ahead(redis: &Redis, consumer: &str) -> Result<Option<EventBatch>, RedisError> {
    let Some(epoch) = marker::ready_epoch(redis).await? else { return Ok(None) };
    let entries = order_stream::read_new(redis, consumer).await?.entries;
    Ok((!entries.is_empty()).then(|| EventBatch::new(epoch, entries, true)))
}
