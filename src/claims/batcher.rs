//! Sends claims to Redis in batches: all claims that wait when a sender is free go in one EVALSHA. No claim is delayed
//! to fill a batch. Owns the deadlines of claims and the batches; the script decides the outcome of a claim, the fence
//! whether claims are accepted. Claims that must reach a replica have batches of their own: no other claim waits for one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::queue::{Joined, Queue};
use crate::config;
use crate::coupons::catalogue::Catalogue;
use crate::domain::{Claim, ClaimOutcome, Refusal};
use crate::fence::{Fence, MARKER_CHANGED, Session};
use crate::logs::{order_step, shows_order_steps};
use crate::metrics;
use crate::redis::RedisError;
use crate::redis::probe::STREAM_IS_FULL;
use crate::redis::scripts::claim::{self, BatchOutcome, BatchReply};

const SESSION_ENDED: &str = "Redis answered after its session had ended";

/// Makes claims in batches. A cheap handle; clones share one queue.
#[derive(Clone)]
pub struct Batcher {
    shared: Arc<Shared>,
}

/// What the batch of a claim waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Redis,
    /// Redis, and then one of its replicas, until the first deadline of the batch.
    Replica,
}

/// The result of a claim that has an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    pub outcome: ClaimOutcome,
    /// Whether a replica is known to have it.
    pub has_replica: bool,
}

struct Waiting {
    claim: Claim,
    deadline: Instant,
    answer: oneshot::Sender<Result<Made, Unavailable>>,
}

/// Why a claim has no outcome. With `NoAnswer` it is unknown whether the claim was made; with the others it was not.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("claims are not accepted now: {0}")]
    FenceDown(Arc<str>),
    #[error("too many claims are waiting")]
    QueueFull,
    #[error("too many accepted claims wait to be recorded")]
    BacklogFull,
    #[error("the claim waited too long and was not made")]
    Late,
    /// Redis refused the whole batch before it ran.
    #[error("nothing was claimed: {0}")]
    Refused(String),
    #[error("whether the claim was made is not known: {0}")]
    NoAnswer(String),
}

impl Unavailable {
    /// The label under which the claim is counted.
    const fn outcome(&self) -> &'static str {
        match self {
            Self::FenceDown(_) => "fence-down",
            Self::QueueFull => "queue-full",
            Self::BacklogFull => "backlog-full",
            Self::Late => "late",
            Self::Refused(_) => "refused",
            Self::NoAnswer(_) => "no-answer",
        }
    }
}

impl From<&RedisError> for Unavailable {
    fn from(error: &RedisError) -> Self {
        if error.wrote_nothing() {
            Self::Refused(error.to_string())
        } else {
            Self::NoAnswer(error.to_string())
        }
    }
}

impl Batcher {
    #[must_use]
    pub fn new(fence: Fence, catalogue: Catalogue, max_backlog: u64) -> Self {
        let plain = Mutex::new(Queue::new(config::CLAIM_MAX_SENDERS));
        let replicated = Mutex::new(Queue::new(config::CLAIM_MAX_REPLICA_SENDERS));
        Self { shared: Arc::new(Shared { fence, catalogue, max_backlog, plain, replicated }) }
    }

    /// The session, or why claims are not accepted.
    ///
    /// # Errors
    /// With the reason: the fence is down, Redis refuses to write, or the backlog is full.
    pub fn taking_claims(&self) -> Result<Arc<Session>, Arc<str>> {
        let session = self.shared.fence.taking_claims()?;
        if self.shared.backlog_is_full() {
            Err(Unavailable::BacklogFull.to_string().into())
        } else {
            Ok(session)
        }
    }

    /// The backlog above which claims are refused.
    #[must_use]
    pub fn max_backlog(&self) -> u64 {
        self.shared.max_backlog
    }

    /// Makes one claim and waits for its outcome, at most `CLAIM_DEADLINE` and the timeout of one command.
    ///
    /// # Errors
    /// If there is no outcome. It is safe to send the claim again.
    pub async fn claim(&self, claim: Claim, lane: Lane) -> Result<Made, Unavailable> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { claim, deadline: Instant::now() + config::CLAIM_DEADLINE, answer };
        let joined = self.shared.queue(lane).join(waiting);
        match joined {
            Joined::Waits => {}
            Joined::NeedsSender => Sender::start(self.shared.clone(), lane),
            Joined::Full => {
                metrics::CLAIMS.add(Unavailable::QueueFull.outcome(), 1);
                return Err(Unavailable::QueueFull);
            }
        }
        answered.await.unwrap_or_else(|_| Err(Unavailable::NoAnswer("its batch was dropped".into())))
    }
}

struct Shared {
    fence: Fence,
    catalogue: Catalogue,
    max_backlog: u64,
    plain: Mutex<Queue<Waiting>>,
    replicated: Mutex<Queue<Waiting>>,
}

impl Shared {
    fn backlog_is_full(&self) -> bool {
        self.fence.backlog() > self.max_backlog
    }

    fn queue(&self, lane: Lane) -> MutexGuard<'_, Queue<Waiting>> {
        let queue = match lane {
            Lane::Redis => &self.plain,
            Lane::Replica => &self.replicated,
        };
        queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of one sender. After a panic another sender starts: the queue still counts the first one, and claims would
/// wait for a sender that does not exist.
struct Sender {
    shared: Arc<Shared>,
    lane: Lane,
    has_ended: bool,
}

impl Sender {
    fn start(shared: Arc<Shared>, lane: Lane) {
        drop(tokio::spawn(send_batches(Self { shared, lane, has_ended: false })));
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // No runtime means that the program is ending.
        if !self.has_ended && tokio::runtime::Handle::try_current().is_ok() {
            tracing::error!("a sender of claims has panicked: another one is started");
            Self::start(self.shared.clone(), self.lane);
        }
    }
}

/// Sends batches until too few claims wait. Sends the next batch before it answers the claims of the last one: the
/// answers wake many tasks, and Redis would be idle while these tasks run.
async fn send_batches(mut sender: Sender) {
    let (shared, lane) = (sender.shared.clone(), sender.lane);
    let mut answered: Option<AnsweredBatch> = None;
    loop {
        let batch = shared.queue(lane).next_batch();
        sender.has_ended = batch.is_none();
        // In a separate task: if it panics, the sender continues.
        let sent = batch.map(|batch| tokio::spawn(send(batch, lane, shared.clone())));
        if let Some(answered) = answered.take() {
            answered.deliver();
        }
        let Some(sent) = sent else { return };
        answered = sent.await.ok();
    }
}

/// A batch with its outcomes, before they are delivered to the claims.
struct AnsweredBatch {
    answers: Vec<oneshot::Sender<Result<Made, Unavailable>>>,
    outcomes: Result<Outcomes, Unavailable>,
}

struct Outcomes {
    /// One for each claim, in the order of the claims.
    each: Vec<ClaimOutcome>,
    has_replica: bool,
}

impl AnsweredBatch {
    fn deliver(self) {
        match self.outcomes {
            Ok(Outcomes { each, has_replica }) => {
                count(&each);
                for (answer, outcome) in self.answers.into_iter().zip(each) {
                    // The client may be gone. The claim stays, and a repeat finds it.
                    drop(answer.send(Ok(Made { outcome, has_replica })));
                }
            }
            Err(unavailable) => {
                metrics::CLAIMS.add(unavailable.outcome(), self.answers.len() as u64);
                for answer in self.answers {
                    drop(answer.send(Err(unavailable.clone())));
                }
            }
        }
    }
}

async fn send(mut batch: Vec<Waiting>, lane: Lane, shared: Arc<Shared>) -> AnsweredBatch {
    let session = match shared.fence.session() {
        Ok(_) if shared.backlog_is_full() => return refuse(batch, Unavailable::BacklogFull),
        Ok(session) => session,
        Err(reason) => return refuse(batch, Unavailable::FenceDown(reason)),
    };
    shared.catalogue.refresh_for(&session).await;
    let now = Instant::now();
    let overdue: Vec<Waiting> = batch.extract_if(.., |waiting| waiting.deadline <= now).collect();
    let overdue = refuse(overdue, Unavailable::Late);
    let Some(deadline) = batch.iter().map(|waiting| waiting.deadline).min() else { return overdue };
    overdue.deliver();

    let (claims, answers): (Vec<Claim>, Vec<_>) = batch.into_iter().map(|w| (w.claim, w.answer)).unzip();
    let outcomes = claim_batch(&shared, &session, lane, deadline, &claims).await;
    if shows_order_steps() {
        log_orders(&claims, &outcomes);
    }
    AnsweredBatch { answers, outcomes }
}

async fn claim_batch(
    shared: &Shared,
    session: &Session,
    lane: Lane,
    deadline: Instant,
    claims: &[Claim],
) -> Result<Outcomes, Unavailable> {
    let sent = send_to_redis(shared, session, lane, deadline, claims).await;
    let (reply, has_replica) = sent.map_err(|error| {
        shared.fence.redis_failed(&session.epoch, &error);
        Unavailable::from(&error)
    })?;
    // A stopped master that wakes up still answers, after a replica was promoted: its answers do not count.
    if !shared.fence.is_current(session) {
        return Err(Unavailable::NoAnswer(SESSION_ENDED.into()));
    }
    if lane == Lane::Redis {
        session.clock.set(reply.now_ms, Instant::now());
    }
    match reply.outcome {
        BatchOutcome::Done(each) => Ok(Outcomes { each, has_replica }),
        BatchOutcome::Late => Err(Unavailable::Late),
        BatchOutcome::Fenced => {
            shared.fence.marker_changed(session);
            Err(Unavailable::FenceDown(MARKER_CHANGED.into()))
        }
        BatchOutcome::Full => {
            shared.fence.invalidate(&session.epoch, STREAM_IS_FULL);
            Err(Unavailable::NoAnswer(STREAM_IS_FULL.into()))
        }
        BatchOutcome::Inconsistent(what) => {
            shared.fence.invalidate(&session.epoch, &what);
            Err(Unavailable::FenceDown(what.into()))
        }
    }
}

/// Sends the batch. Also returns whether a replica is known to have its outcomes.
async fn send_to_redis(
    shared: &Shared,
    session: &Session,
    lane: Lane,
    deadline: Instant,
    claims: &[Claim],
) -> Result<(BatchReply, bool), RedisError> {
    let deadline_ms = session.clock.at_ms(deadline);
    // A coupon of a partition that this process has not started yet is absent here, but not lost.
    let is_published = |coupon: &_| shared.catalogue.is_published_in(session.epoch.partition, coupon);
    if lane == Lane::Redis {
        let sent = claim::claim_batch(&session.redis, &session.ready, deadline_ms, claims, is_published);
        return Ok((sent.await?, false));
    }
    let carrier = session.carriers.take().await?;
    let left = deadline.saturating_duration_since(Instant::now());
    let sent =
        claim::claim_batch_replicated(&carrier, &session.ready, deadline_ms, claims, is_published, left);
    let sent = sent.await?;
    session.carriers.give_back(carrier);
    Ok(sent)
}

/// Adds each kind of outcome once for the whole batch: one lookup of a counter for each kind, not for each claim.
fn count(outcomes: &[ClaimOutcome]) {
    let word = |outcome: &ClaimOutcome| match outcome {
        ClaimOutcome::Accepted { .. } => "accepted",
        ClaimOutcome::Held { .. } => "held",
        ClaimOutcome::Refused(Refusal::KeyRequired) => "idempotency-key-required",
        ClaimOutcome::Refused(Refusal::UnknownCoupon) => "unknown-coupon",
        ClaimOutcome::Refused(Refusal::Ended) => "ended",
        ClaimOutcome::Refused(Refusal::Paused) => "paused",
        ClaimOutcome::Refused(Refusal::NotStarted { .. }) => "not-started",
        ClaimOutcome::Refused(Refusal::LimitReached) => "limit-reached",
        ClaimOutcome::Refused(Refusal::SoldOut) => "sold-out",
    };
    let mut counts: Vec<(&'static str, u64)> = Vec::new();
    for word in outcomes.iter().map(word) {
        match counts.iter_mut().find(|(counted, _)| *counted == word) {
            Some((_, count)) => *count += 1,
            None => counts.push((word, 1)),
        }
    }
    for (word, count) in counts {
        metrics::CLAIMS.add(word, count);
    }
}

fn log_orders(claims: &[Claim], outcomes: &Result<Outcomes, Unavailable>) {
    match outcomes {
        Ok(Outcomes { each, .. }) => {
            for (Claim { coupon, order, .. }, outcome) in claims.iter().zip(each) {
                match outcome {
                    ClaimOutcome::Accepted { .. } => order_step!(order, %coupon, "accepted"),
                    ClaimOutcome::Held { order, .. } => order_step!(order, %coupon, "claimed again"),
                    ClaimOutcome::Refused(_) => {}
                }
            }
        }
        Err(Unavailable::NoAnswer(why)) => {
            for Claim { coupon, order, .. } in claims {
                order_step!(order, %coupon, "may be accepted: {why}");
            }
        }
        Err(_) => {}
    }
}

fn refuse(batch: Vec<Waiting>, why: Unavailable) -> AnsweredBatch {
    AnsweredBatch { answers: batch.into_iter().map(|waiting| waiting.answer).collect(), outcomes: Err(why) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{OrderId, Partition};
    use crate::postgres::Postgres;

    #[tokio::test]
    async fn claims_whose_sender_panics_are_sent_by_another() {
        let postgres = Postgres::new("postgres://127.0.0.1:1/nowhere", "seckill").unwrap();
        let batcher = Batcher::new(Fence::new(Partition::DEFAULT), Catalogue::new(postgres), u64::MAX);
        let (answer, answered) = oneshot::channel();
        let (coupon, user) = ("coffee".parse().unwrap(), "alice".parse().unwrap());
        let claim = Claim { coupon, user, order: OrderId::mint(), key: None };
        let deadline = Instant::now() + config::CLAIM_DEADLINE;
        let lane = Lane::Replica;
        assert_eq!(batcher.shared.queue(lane).join(Waiting { claim, deadline, answer }), Joined::NeedsSender);
        // A panic would drop the sender in the same way.
        drop(Sender { shared: batcher.shared.clone(), lane, has_ended: false });
        assert!(matches!(answered.await, Ok(Err(Unavailable::FenceDown(_)))), "the claim is answered");
    }
}
