//! The transactions that confirm, cancel and revoke orders: all transitions that wait while a transaction runs go in the
//! next one, confirms and cancels each in their own, and each revocation alone. A few tasks make them at the same time,
//! each on a connection that it borrows: the row locks decide between two transitions of one order.

use std::collections::HashSet;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{NotMade, Parts, TransitionError};
use crate::config;
use crate::domain::{Epoch, Order, OrderId};
use crate::fence::wal_position::{read_position, record_position};
use crate::logs::{order_step, shows_order_steps};
use crate::metrics;
use crate::postgres::PostgresError;
use crate::postgres::fence;
use crate::postgres::transitions::{self, AskedOrder, Revocation, TransitionOutcome};
use crate::postgres::work::WorkConnection;
use crate::tasks::Tasks;
use crate::tasks::batch_queue::{BatchQueue, batch_queue};

/// The queue of transitions. A cheap handle.
#[derive(Clone)]
pub struct Batches {
    queue: mpsc::Sender<Waiting>,
}

/// What is asked for.
#[derive(Debug)]
pub enum Asked {
    Confirm(AskedOrder),
    Cancel(AskedOrder),
    Revoke(Revocation),
}

/// The order's row after the transaction; `None` if there is none.
type Answer = Result<Option<Order>, TransitionError>;

struct Waiting {
    asked: Asked,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

impl Asked {
    const fn order(&self) -> OrderId {
        match self {
            Self::Confirm(asked) | Self::Cancel(asked) => asked.order,
            Self::Revoke(revocation) => revocation.order,
        }
    }
}

impl Batches {
    /// Starts the tasks that make the transactions, until `stop`.
    pub fn start(parts: &Parts, tasks: &Tasks, stop: &CancellationToken) -> Self {
        let (queue, waiting) = batch_queue(config::TRANSITION_QUEUE_MAX_ORDERS);
        for name in ["transitions of orders", "more transitions of orders"] {
            let own = (waiting.clone(), parts.clone(), stop.clone());
            tokio::spawn(tasks.supervise(name, None, stop, move || {
                let (waiting, parts, stop) = own.clone();
                async move { stop.run_until_cancelled(run(&waiting, parts)).await }
            }));
        }
        Self { queue }
    }

    /// Makes one transition and returns the order's row, changed or not.
    ///
    /// # Errors
    /// If the transition was not made or is not known to have been made.
    pub async fn ask(&self, asked: Asked) -> Answer {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { asked, deadline: Instant::now() + config::TRANSITION_DEADLINE, answer };
        let made = match self.queue.try_send(waiting) {
            Ok(()) => answered.await.unwrap_or_else(|_| Err(NotMade::NoAnswer.into())),
            Err(_) => Err(NotMade::QueueFull.into()),
        };
        if let Err(TransitionError::NotMade(why)) = &made {
            metrics::TRANSITION_FAILURES.add(why.reason(), 1);
        }
        made
    }
}

async fn run(queue: &BatchQueue<Waiting>, parts: Parts) {
    let maker = Maker { parts };
    while let Some(batch) = queue.next_batch(config::TRANSITION_BATCH_MAX_ORDERS).await {
        maker.make(batch).await;
    }
}

/// Makes transactions, one at a time.
struct Maker {
    parts: Parts,
}

impl Maker {
    async fn make(&self, batch: Vec<Waiting>) {
        for mut group in group(batch) {
            refuse_late(&mut group);
            if group.is_empty() {
                continue;
            }
            let outcome = self.transact(&group).await;
            let is_refused = matches!(outcome, Err(NotMade::Postgres(PostgresError::Row(_))));
            if !is_refused || group.len() == 1 {
                self.deliver(group, outcome);
                continue;
            }
            // Postgres refuses one of the rows: the others do not fail with it.
            for alone in group.into_iter().map(|waiting| vec![waiting]) {
                let outcome = self.transact(&alone).await;
                self.deliver(alone, outcome);
            }
        }
    }

    /// Makes one transaction. If a connection has become useless, for example by a restart of Postgres, the transaction
    /// is made again on another one: a transition that was committed is not made twice.
    async fn transact(&self, group: &[Waiting]) -> Result<TransitionOutcome, NotMade> {
        let Parts { fence, postgres, .. } = self.parts.clone();
        let session = fence.session().map_err(NotMade::FenceDown)?;
        let position = read_position(&fence, &session).await?;
        let transaction = async {
            let connection = postgres.work.borrow(fence.partition()).await?;
            let is_reused = connection.is_reused();
            match transact_on(connection, &session.epoch, &position, group).await {
                Err(PostgresError::Transient(why)) if is_reused => {
                    tracing::debug!("transitions of orders go to another connection: {why}");
                }
                done => return done,
            }
            let connection = postgres.work.borrow(fence.partition()).await?;
            transact_on(connection, &session.epoch, &position, group).await
        };
        // Dropped half-way, it closes its connection.
        let made = tokio::time::timeout(config::TRANSITION_TIMEOUT, transaction).await;
        let (outcome, lsn) = made.map_err(|_| NotMade::NoAnswer)??;
        // Before the answer, also to a repeat: an older copy of Postgres, in which a paid order may not be confirmed, is
        // then detected.
        if matches!(&outcome, TransitionOutcome::Done { rows, .. } if !rows.is_empty()) {
            let lsn = lsn.ok_or(NotMade::Fenced)?;
            record_position(&fence, &session, &lsn).await?;
        }
        Ok(outcome)
    }

    fn deliver(&self, group: Vec<Waiting>, outcome: Result<TransitionOutcome, NotMade>) {
        let rows = match outcome {
            Ok(TransitionOutcome::Done { changed, rows }) => {
                self.report(&group[0].asked, &changed);
                Ok(rows)
            }
            Ok(TransitionOutcome::Fenced) => Err(NotMade::Fenced.into()),
            Ok(TransitionOutcome::LastUnit) => Err(TransitionError::LastUnit),
            Err(not_made) => Err(TransitionError::from(not_made)),
        };
        for Waiting { asked, answer, .. } in group {
            let row = rows.as_ref().map(|rows| rows.get(&asked.order()).cloned());
            // The client may be gone: the transition stands, and a repeat finds it.
            drop(answer.send(row.map_err(Clone::clone)));
        }
    }

    fn report(&self, asked: &Asked, changed: &HashSet<OrderId>) {
        let (counter, step, is_unit_due) = match asked {
            Asked::Confirm(_) => (&metrics::ORDERS_CONFIRMED, "confirmed", false),
            Asked::Cancel(_) => (&metrics::ORDERS_CANCELLED, "cancelled", true),
            // A withdrawn unit is released after the publication of the lower total.
            Asked::Revoke(revocation) => (&metrics::ORDERS_REVOKED, "revoked", revocation.return_unit),
        };
        counter.add(changed.len() as u64);
        if shows_order_steps() {
            for order in changed {
                order_step!(order, "{step}");
            }
        }
        // Also if nothing was changed: the transaction may be the repeat of one whose answer was lost.
        if is_unit_due {
            self.parts.unit_waits.notify_one();
        }
    }
}

/// Returns a WAL position that covers the transaction as well; `None` if this Postgres is not that of the epoch. Gives the
/// connection back only after a success: a failed transaction may still hold its locks, and a connection that is fenced
/// off may lead to a server that has been replaced.
async fn transact_on(
    mut connection: WorkConnection,
    epoch: &Epoch,
    position: &str,
    group: &[Waiting],
) -> Result<(TransitionOutcome, Option<String>), PostgresError> {
    let outcome = match &group[0].asked {
        Asked::Confirm(_) => {
            let orders = orders(group);
            let work = transitions::confirm(&mut connection, epoch, position, &orders);
            metrics::TRANSACTION_DURATION.time("confirm", work).await?
        }
        Asked::Cancel(_) => {
            let orders = orders(group);
            let work = transitions::cancel(&mut connection, epoch, position, &orders);
            metrics::TRANSACTION_DURATION.time("cancel", work).await?
        }
        Asked::Revoke(revocation) => {
            let work = transitions::revoke(&mut connection, epoch, position, revocation);
            metrics::TRANSACTION_DURATION.time("revoke", work).await?
        }
    };
    if matches!(outcome, TransitionOutcome::Fenced) {
        return Ok((outcome, None));
    }
    let lsn = fence::position_to_record(&mut *connection, epoch).await?;
    connection.give_back();
    Ok((outcome, lsn))
}

/// Splits a batch by transaction: the confirms, the cancels, each revocation.
fn group(batch: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let (mut confirms, mut cancels, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    for waiting in batch {
        match waiting.asked {
            Asked::Confirm(_) => confirms.push(waiting),
            Asked::Cancel(_) => cancels.push(waiting),
            Asked::Revoke(_) => groups.push(vec![waiting]),
        }
    }
    groups.extend([confirms, cancels]);
    groups
}

/// Answers and removes transitions whose deadline has passed while they waited.
fn refuse_late(group: &mut Vec<Waiting>) {
    let now = Instant::now();
    for late in group.extract_if(.., |waiting| waiting.deadline <= now) {
        // The client may be gone.
        drop(late.answer.send(Err(NotMade::Late.into())));
    }
}

fn orders(group: &[Waiting]) -> Vec<AskedOrder> {
    let asked = group.iter().filter_map(|waiting| match &waiting.asked {
        Asked::Confirm(asked) | Asked::Cancel(asked) => Some(asked.clone()),
        Asked::Revoke(_) => None,
    });
    asked.collect()
}
