//! One consumer: reads new entries and records them. After any failure it starts from its own pending
//! entries, so that nothing it was handed is forgotten. Entries of others are `reclaim`'s affair.
//!
//! While a backlog lasts, Redis and Postgres work at the same time: beside the recording of one batch the batch
//! before it is acknowledged and the one after it is read. A second consumer then takes every other batch, so that
//! Postgres inserts one while it flushes the other; with fewer events it would only make smaller batches.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::record::{Ended, Handed, Unacknowledged, acknowledge, record};
use super::{Context, Hindrance, Link, backoff, leave, pause, report_deleted};
use crate::config;
use crate::redis::{Redis, RedisError, order_stream};

/// When a consumer reads.
#[derive(Clone)]
pub enum Shift {
    /// Always; tells of a backlog.
    Always(Arc<Notify>),
    /// When it is told of a backlog, for as long as batches are full.
    Backlog(Arc<Notify>),
}

pub async fn run(context: Arc<Context>, name: String, shift: Shift, stop: CancellationToken) {
    let link = Link::new(&context);
    let mut consumer = Consumer {
        context: &context,
        name: &name,
        // Nobody was handed anything under this name, and a look would make it a consumer of the group.
        reads_own: matches!(shift, Shift::Always(_)),
        shift,
        link,
        began: None,
        ahead: None,
        unacknowledged: None,
    };
    let mut hindrance = Hindrance::default();
    let mut delays = backoff();
    while !stop.is_cancelled() || consumer.ahead.is_some() {
        let turn = consumer.turn(&stop).await;
        match turn {
            Ok(Turn::Empty) => {
                hindrance.note_nothing_to_do(&name);
                consumer.reads_own = false;
            }
            Ok(Turn::Recorded) => {
                hindrance.is_over(&name);
                delays = backoff();
            }
            Ok(Turn::Again) => consumer.start_over(),
            Ok(Turn::Failed(why)) => {
                hindrance.note(&name, &why);
                consumer.start_over();
                pause(delays.next().unwrap_or_default(), &stop).await;
            }
            Err(error) => {
                hindrance.note(&name, &error.to_string());
                consumer.link.broken();
                consumer.start_over();
                pause(delays.next().unwrap_or_default(), &stop).await;
            }
        }
    }
    leave(&context, &name).await;
}

enum Turn {
    /// Nothing was there to read.
    Empty,
    Recorded,
    /// The agreement changed: read the marker anew, then the own pending entries.
    Again,
    /// Postgres cannot record now.
    Failed(String),
}

struct Consumer<'a> {
    context: &'a Context,
    name: &'a str,
    shift: Shift,
    link: Link<'a>,
    /// Its own pending entries come first, until there are none.
    reads_own: bool,
    /// When the last batch was read.
    began: Option<Instant>,
    /// What was read while the batch before was recorded, and the connection that read it.
    ahead: Option<(Redis, Handed)>,
    /// What is acknowledged while the batch after is recorded.
    unacknowledged: Option<Unacknowledged>,
}

impl Consumer<'_> {
    /// Forgets what is in hand: it is all in the list of pending entries.
    fn start_over(&mut self) {
        self.reads_own = true;
        self.ahead = None;
        self.unacknowledged = None;
    }

    async fn turn(&mut self, stop: &CancellationToken) -> Result<Turn, RedisError> {
        let (redis, handed) = match self.ahead.take() {
            Some(ahead) => ahead,
            None => match self.read(stop).await? {
                Some(read) => read,
                None => return Ok(Turn::Again),
            },
        };
        if handed.is_empty() {
            return Ok(Turn::Empty);
        }
        self.began = Some(Instant::now());
        let reads_ahead = handed.is_full() && !self.reads_own && !stop.is_cancelled();
        let (context, name, before) = (self.context, self.name, self.unacknowledged.take());
        let beside = async {
            match &before {
                Some(before) if !acknowledge(context, &redis, before).await? => Ok(None),
                _ if reads_ahead => read_ahead(&redis, name).await,
                _ => Ok(None),
            }
        };
        let (ended, ahead) = tokio::join!(record(&mut self.link, &redis, handed), beside);
        let ahead = ahead?;
        if let (Shift::Always(backlog), Some(ahead)) = (&self.shift, &ahead)
            && ahead.is_full()
        {
            backlog.notify_one();
        }
        match ended? {
            Ended::All(ended) if ahead.is_some() => {
                self.unacknowledged = Some(ended);
                self.ahead = ahead.map(|ahead| (redis, ahead));
                Ok(Turn::Recorded)
            }
            Ended::All(ended) if acknowledge(context, &redis, &ended).await? => Ok(Turn::Recorded),
            Ended::All(_) | Ended::Fenced => Ok(Turn::Again),
            Ended::Failed(why) => Ok(Turn::Failed(why)),
        }
    }

    /// Waits for entries, under the marker that stands before them; `None` while there is no agreement.
    async fn read(&mut self, stop: &CancellationToken) -> Result<Option<(Redis, Handed)>, RedisError> {
        if let Some(began) = self.began {
            // Under load a commit is shared by whatever comes meanwhile; the first event after a pause waits for nobody.
            tokio::time::sleep_until((began + config::RECORD_INTERVAL).into()).await;
        }
        if let (Shift::Backlog(backlog), false) = (&self.shift, self.reads_own) {
            tokio::select! {
                () = backlog.notified() => {}
                () = stop.cancelled() => return Ok(None),
            }
        }
        let Some((redis, epoch)) = self.link.epoch(stop).await? else { return Ok(None) };
        if stop.is_cancelled() {
            return Ok(None);
        }
        let read = if self.reads_own {
            order_stream::read_pending(&redis, self.name, "0").await
        } else {
            match self.shift {
                Shift::Always(_) => order_stream::wait_for_new(&redis, self.name).await,
                Shift::Backlog(_) => order_stream::read_new(&redis, self.name).await,
            }
        };
        let read = match read {
            Err(error @ (RedisError::NoGroup(_) | RedisError::WrongType(_))) => {
                self.context.fence.redis_failed(&epoch, &error);
                return Ok(None);
            }
            read => read?,
        };
        if !read.deleted.is_empty() {
            report_deleted(self.context, &redis, read.deleted.len()).await?;
            return Ok(None);
        }
        Ok(Some((redis, Handed::new(epoch, read.entries, !self.reads_own))))
    }
}

/// The next entries, if there are any and claims are accepted.
async fn read_ahead(redis: &Redis, consumer: &str) -> Result<Option<Handed>, RedisError> {
    let Some(epoch) = order_stream::ready_epoch(redis).await? else { return Ok(None) };
    let entries = order_stream::read_new(redis, consumer).await?.entries;
    Ok((!entries.is_empty()).then(|| Handed::new(epoch, entries, true)))
}
