//! Takes places in waiting lists: all requests that wait while a batch runs go in the next one. For a batch there is one
//! statement in Postgres, and two scripts in Redis for each coupon: one that looks who may join, and, after the commit of
//! their rows, one that takes the places. What Redis loses can then be restored from the rows.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{WaitlistError, checked};
use crate::config;
use crate::domain::{CouponId, OrderId, WaitingUser};
use crate::fence::{Fence, Session, StoreError};
use crate::logs::order_step;
use crate::metrics;
use crate::postgres::{Postgres, fence as postgres_fence, waitlist as rows, with_timeout};
use crate::redis::waitlist::{self as line, Standing, Standings};
use crate::tasks::Tasks;
use crate::tasks::batch_queue::{BatchQueue, batch_queue};

/// The queue of the users who ask for a place. A cheap handle.
#[derive(Clone)]
pub struct Joins {
    queue: mpsc::Sender<Request>,
}

/// The standing and the number of users in line.
type Answer = Result<(Standing, i64), WaitlistError>;

struct Request {
    coupon: CouponId,
    waiting: WaitingUser,
    answer: oneshot::Sender<Answer>,
}

impl Joins {
    /// Starts the task that takes places, until `stop`.
    pub fn start(fence: &Fence, postgres: &Postgres, tasks: &Tasks, stop: &CancellationToken) -> Self {
        let (queue, requests) = batch_queue(config::WAITLIST_QUEUE_MAX_USERS);
        let parts = (requests, fence.clone(), postgres.clone(), stop.clone());
        tokio::spawn(tasks.supervise("joins of waiting lists", None, stop, move || {
            let (requests, fence, postgres, stop) = parts.clone();
            async move { stop.run_until_cancelled(run(&requests, &fence, &postgres)).await }
        }));
        Self { queue }
    }

    /// Asks for one place.
    ///
    /// # Errors
    /// If a store does not answer, or too many requests wait.
    pub async fn ask(&self, coupon: CouponId, waiting: WaitingUser) -> Answer {
        let (answer, answered) = oneshot::channel();
        if self.queue.try_send(Request { coupon, waiting, answer }).is_err() {
            return Err(WaitlistError::QueueFull);
        }
        match tokio::time::timeout(config::WAITLIST_JOIN_TIMEOUT, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(WaitlistError::NoAnswer),
        }
    }
}

async fn run(queue: &BatchQueue<Request>, fence: &Fence, postgres: &Postgres) {
    while let Some(batch) = queue.next_batch(config::WAITLIST_JOIN_BATCH_MAX_USERS).await {
        // A request whose client has given up is not made: its row would be without a place.
        let batch = batch.into_iter().filter(|request| !request.answer.is_closed()).collect();
        take_places(batch, fence, postgres).await;
    }
}

async fn take_places(batch: Vec<Request>, fence: &Fence, postgres: &Postgres) {
    let mut coupons: BTreeMap<CouponId, Vec<Request>> = BTreeMap::new();
    for request in batch {
        coupons.entry(request.coupon.clone()).or_default().push(request);
    }
    let session = match fence.require_session() {
        Ok(session) => session,
        Err(error) => return coupons.into_values().for_each(|requests| refuse(requests, &error)),
    };
    let mut joining = Vec::new();
    for (coupon, requests) in coupons {
        let users: Vec<WaitingUser> = requests.iter().map(|request| request.waiting.clone()).collect();
        let looked = line::look(&session.redis, &session.ready, &coupon, &users).await;
        match checked(fence, &session, &coupon, looked) {
            Ok(standings) => {
                let may_join = deliver_others(requests, &standings);
                if !may_join.is_empty() {
                    joining.push((coupon, may_join));
                }
            }
            Err(error) => refuse(requests, &error),
        }
    }
    if joining.is_empty() {
        return;
    }
    let lsn = match commit_rows(&joining, &session, postgres).await {
        Ok(lsn) => lsn,
        Err(error) => {
            return joining.into_iter().for_each(|(_, requests)| refuse(requests, &error));
        }
    };
    let mut unused = Vec::new();
    for (coupon, requests) in joining {
        let users: Vec<WaitingUser> = requests.iter().map(|request| request.waiting.clone()).collect();
        let joined = line::join(&session.redis, &session.ready, &lsn, &coupon, &users).await;
        match checked(fence, &session, &coupon, joined) {
            Ok(standings) => unused.extend(deliver(requests, &standings)),
            // The rows stay: the places may be taken.
            Err(error) => refuse(requests, &error),
        }
    }
    if !unused.is_empty() {
        let (pool, count) = (postgres.pool.clone(), unused.len());
        let removed = async move { rows::remove(&pool, &unused).await };
        if let Err(error) = with_timeout(config::WAITLIST_JOIN_TIMEOUT, removed).await {
            tracing::debug!("{count} rows without a place stay in the waiting list: {error}");
        }
    }
}

/// Commits the rows, and returns a WAL position that covers the commit.
async fn commit_rows(
    joining: &[(CouponId, Vec<Request>)],
    session: &Session,
    postgres: &Postgres,
) -> Result<String, StoreError> {
    let users: Vec<(CouponId, WaitingUser)> = joining
        .iter()
        .flat_map(|(coupon, requests)| {
            requests.iter().map(|request| (coupon.clone(), request.waiting.clone()))
        })
        .collect();
    let (pool, epoch) = (postgres.pool.clone(), session.epoch.clone());
    // A Postgres that hangs must not hold up the requests that come after these have been given up.
    let added = with_timeout(config::WAITLIST_JOIN_TIMEOUT, async move {
        let is_added = rows::add(&pool, &epoch, &users).await?;
        if is_added { postgres_fence::position_to_record(&pool, &epoch).await } else { Ok(None) }
    });
    metrics::TRANSACTION_DURATION.time("join", added).await?.ok_or(StoreError::Fenced)
}

/// Answers the users who may not join, and returns the requests of the others.
fn deliver_others(requests: Vec<Request>, standings: &Standings) -> Vec<Request> {
    let mut may_join = Vec::new();
    for (request, standing) in requests.into_iter().zip(&standings.users) {
        match standing {
            Standing::Joined(_) => may_join.push(request),
            standing => send(request, Ok((*standing, standings.waiting))),
        }
    }
    may_join
}

/// Answers all users, and returns the orders of those who got no place.
fn deliver(requests: Vec<Request>, standings: &Standings) -> Vec<OrderId> {
    let mut unused = Vec::new();
    for (request, standing) in requests.into_iter().zip(&standings.users) {
        let order = request.waiting.order;
        let standing = match standing {
            // The script has run before, and its answer was lost.
            Standing::Waits { place, order: known } if *known == order => Standing::Joined(*place),
            standing => *standing,
        };
        if matches!(standing, Standing::Joined(_)) {
            metrics::WAITLIST_JOINED.add(1);
            order_step!(order, "has a place in the waiting list");
        } else {
            unused.push(order);
        }
        send(request, Ok((standing, standings.waiting)));
    }
    unused
}

fn refuse(requests: Vec<Request>, error: &StoreError) {
    for request in requests {
        send(request, Err(error.clone().into()));
    }
}

fn send(request: Request, answer: Answer) {
    // The client may be gone: the place stands, and a repeat finds it.
    drop(request.answer.send(answer));
}
