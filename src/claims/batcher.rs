//! The gate: claims that wait together travel in one EVALSHA. Whatever waits when the last one is answered goes;
//! nothing is delayed to fill a batch. It owns the line, the deadline and the batch; what a
//! claim means is the script's affair, whether claims are accepted at all the fence's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::queue::{Joined, Queue};
use crate::config;
use crate::coupons::catalogue::Catalogue;
use crate::domain::{Claim, ClaimOutcome, Refusal};
use crate::fence::{Fence, MARKER_CHANGED, Session};
use crate::metrics;
use crate::redis::RedisError;
use crate::redis::probe::STREAM_IS_FULL;
use crate::redis::scripts::claim::{self, BatchOutcome};

/// A cheap handle; clones share one queue.
#[derive(Clone)]
pub struct Batcher {
    shared: Arc<Shared>,
}

struct Waiting {
    claim: Claim,
    deadline: Instant,
    answer: oneshot::Sender<Result<ClaimOutcome, Unavailable>>,
}

/// Why there is no answer about stock. Nothing was claimed, except with `NoAnswer`, where it is not known.
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
    /// One of the outcomes by which claims are counted.
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
        let queue = Mutex::default();
        Self { shared: Arc::new(Shared { fence, catalogue, max_backlog, queue }) }
    }

    /// The session, or why no claims are taken.
    pub fn taking_claims(&self) -> Result<Arc<Session>, Arc<str>> {
        let session = self.shared.fence.taking_claims()?;
        if self.shared.backlog_is_full() {
            Err(Unavailable::BacklogFull.to_string().into())
        } else {
            Ok(session)
        }
    }

    /// Makes one claim and waits for its answer, at most its deadline and a little more.
    pub async fn claim(&self, claim: Claim) -> Result<ClaimOutcome, Unavailable> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { claim, deadline: Instant::now() + config::CLAIM_DEADLINE, answer };
        let joined = self.shared.queue().join(waiting);
        match joined {
            Joined::Waits => {}
            Joined::NeedsSender => Sender::start(self.shared.clone()),
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
    queue: Mutex<Queue<Waiting>>,
}

impl Shared {
    fn backlog_is_full(&self) -> bool {
        self.fence.backlog() > self.max_backlog
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Waiting>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A carrier's task. Should it end in the middle of its work, another one takes its place: the line counts carriers,
/// and claims would wait for one that never comes back.
struct Sender {
    shared: Arc<Shared>,
    has_ended: bool,
}

impl Sender {
    fn start(shared: Arc<Shared>) {
        drop(tokio::spawn(send_batches(Self { shared, has_ended: false })));
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Without a runtime the program ends, and every waiting claim with it.
        if !self.has_ended && tokio::runtime::Handle::try_current().is_ok() {
            tracing::error!("a carrier of claims has ended before its time: another one sets out");
            Self::start(self.shared.clone());
        }
    }
}

/// Takes claims to Redis until it finds too few that wait. The next batch is on its way before the last one's
/// claims are answered: whoever is woken by an answer has work to do, and Redis would wait for all of them.
async fn send_batches(mut sender: Sender) {
    let shared = sender.shared.clone();
    let mut ended: Option<Ended> = None;
    loop {
        let batch = shared.queue().next_batch();
        sender.has_ended = batch.is_none();
        // A task of its own: should it ever panic, the gate goes on.
        let on_its_way = batch.map(|batch| tokio::spawn(send(batch, shared.clone())));
        if let Some(ended) = ended.take() {
            ended.deliver();
        }
        let Some(on_its_way) = on_its_way else { return };
        ended = on_its_way.await.ok();
    }
}

/// What became of a batch, and who waits to hear it.
struct Ended {
    answers: Vec<oneshot::Sender<Result<ClaimOutcome, Unavailable>>>,
    /// One outcome for each.
    outcomes: Result<Vec<ClaimOutcome>, Unavailable>,
}

impl Ended {
    fn deliver(self) {
        match self.outcomes {
            Ok(outcomes) => {
                count(&outcomes);
                for (answer, outcome) in self.answers.into_iter().zip(outcomes) {
                    // Whoever asked may be gone; the claim stands and a repeat finds it.
                    drop(answer.send(Ok(outcome)));
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

async fn send(mut batch: Vec<Waiting>, shared: Arc<Shared>) -> Ended {
    let session = match shared.fence.session() {
        Ok(_) if shared.backlog_is_full() => return refuse(batch, Unavailable::BacklogFull),
        Ok(session) => session,
        Err(reason) => return refuse(batch, Unavailable::FenceDown(reason)),
    };
    shared.catalogue.refresh_for(&session).await;
    let now = Instant::now();
    let late: Vec<Waiting> = batch.extract_if(.., |waiting| waiting.deadline <= now).collect();
    let late = refuse(late, Unavailable::Late);
    let Some(deadline) = batch.iter().map(|waiting| waiting.deadline).min() else { return late };
    late.deliver();

    let (claims, answers): (Vec<Claim>, Vec<_>) = batch.into_iter().map(|w| (w.claim, w.answer)).unzip();
    let outcomes = claim_batch(&shared, &session, deadline, &claims).await;
    Ended { answers, outcomes }
}

async fn claim_batch(
    shared: &Shared,
    session: &Session,
    deadline: Instant,
    claims: &[Claim],
) -> Result<Vec<ClaimOutcome>, Unavailable> {
    let deadline_ms = session.clock.at_ms(deadline);
    let is_published = |coupon: &_| shared.catalogue.is_published(coupon);
    let reply = claim::claim_batch(&session.redis, &session.ready, deadline_ms, claims, is_published).await;
    let reply = reply.map_err(|error| {
        shared.fence.redis_failed(&session.epoch, &error);
        Unavailable::from(&error)
    })?;
    session.clock.set(reply.now_ms, Instant::now());
    match reply.outcome {
        BatchOutcome::Done(outcomes) => Ok(outcomes),
        BatchOutcome::Late => Err(Unavailable::Late),
        BatchOutcome::Fenced => {
            shared.fence.marker_changed(session);
            Err(Unavailable::FenceDown(MARKER_CHANGED.into()))
        }
        BatchOutcome::Full => {
            shared.fence.lost(&session.epoch, STREAM_IS_FULL);
            Err(Unavailable::NoAnswer(STREAM_IS_FULL.into()))
        }
        BatchOutcome::Lost(what) => {
            shared.fence.lost(&session.epoch, &what);
            Err(Unavailable::FenceDown(what.into()))
        }
    }
}

/// Once for each kind of outcome in the batch: a claim costs no look-up of its own.
fn count(outcomes: &[ClaimOutcome]) {
    let word = |outcome: &ClaimOutcome| match outcome {
        ClaimOutcome::Accepted { .. } => "accepted",
        ClaimOutcome::Held { .. } => "held",
        ClaimOutcome::Refused(Refusal::UnknownCoupon) => "unknown-coupon",
        ClaimOutcome::Refused(Refusal::Ended) => "ended",
        ClaimOutcome::Refused(Refusal::Paused) => "paused",
        ClaimOutcome::Refused(Refusal::NotStarted { .. }) => "not-started",
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

fn refuse(batch: Vec<Waiting>, why: Unavailable) -> Ended {
    Ended { answers: batch.into_iter().map(|waiting| waiting.answer).collect(), outcomes: Err(why) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::OrderId;
    use crate::postgres::Postgres;

    #[tokio::test]
    async fn claims_whose_carrier_ends_before_its_time_are_taken_by_another() {
        let postgres = Postgres::new("postgres://127.0.0.1:1/nowhere", "seckill").unwrap();
        let gate = Batcher::new(Fence::new(), Catalogue::new(postgres), u64::MAX);
        let (answer, answered) = oneshot::channel();
        let (coupon, user) = ("coffee".parse().unwrap(), "alice".parse().unwrap());
        let claim = Claim { coupon, user, order: OrderId::mint() };
        let deadline = Instant::now() + config::CLAIM_DEADLINE;
        assert_eq!(gate.shared.queue().join(Waiting { claim, deadline, answer }), Joined::NeedsSender);
        // As by a panic in the middle of its work.
        drop(Sender { shared: gate.shared.clone(), has_ended: false });
        assert!(matches!(answered.await, Ok(Err(Unavailable::FenceDown(_)))), "the claim is answered");
    }
}
