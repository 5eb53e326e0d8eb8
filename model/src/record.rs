//! The workers (`worker/`): read the marker, read an entry, record it in one transaction, acknowledge it.

use crate::serve::note_loss;
use crate::state::{
    Entry, Epoch, Marker, ORDERS, Order, Place, State, Status, ToCompare, Worker, bit, user_of,
};
use crate::steps::Steps;
use crate::{Rule, Scope};

pub fn steps(state: &State, scope: &Scope, steps: &mut Steps) {
    for worker in 0..scope.workers {
        match state.workers[worker] {
            Worker::Idle => {
                if let Marker::Ready(epoch) = state.redis.marker {
                    steps.take("a worker reads the marker", |next| {
                        next.workers[worker] = Worker::Marked(epoch);
                        true
                    });
                }
            }
            Worker::Marked(epoch) => read(state, scope, worker, epoch, steps),
            Worker::Has(epoch, generation, order) => {
                insert(state, scope, worker, (epoch, generation, order), steps);
            }
            Worker::Refused(epoch, generation, order) => {
                reject(state, scope, worker, (epoch, generation, order), steps);
            }
            Worker::Open(epoch, generation, order, status) => {
                commit(worker, (epoch, generation, order), status, steps);
            }
            Worker::Ended(epoch, generation, order, rejected) => {
                acknowledge(scope, worker, (epoch, generation, order), rejected, steps);
            }
        }
    }
}

/// Reads a new entry (XREADGROUP), or takes over any pending one (`lua/reclaim.lua`).
fn read(state: &State, scope: &Scope, worker: usize, epoch: Epoch, steps: &mut Steps) {
    let Some(stream) = state.redis.stream.filter(|stream| stream.has_group) else {
        return steps.take("a worker finds no group", |next| {
            next.workers[worker] = Worker::Idle;
            note_loss(next, epoch, false);
            true
        });
    };
    if stream.is_settled() {
        return steps.take("a worker finds nothing", |next| {
            next.workers[worker] = Worker::Idle;
            true
        });
    }
    let mut seen = None;
    for (index, entry) in stream.entries.iter().enumerate() {
        if seen == Some(*entry) {
            continue;
        }
        seen = Some(*entry);
        let Entry { place, order } = *entry;
        match place {
            Place::Undelivered | Place::Pending(_) => steps.take("a worker reads an entry", |next| {
                if let Some(stream) = &mut next.redis.stream {
                    stream.entries[index].place = Place::Pending(worker as u8);
                    stream.sort();
                }
                next.workers[worker] = Worker::Has(epoch, stream.generation, order);
                true
            }),
            Place::Deleted(_) => steps.take("a worker finds a deleted entry", |next| {
                if !scope.has(Rule::DeletedEntriesStay)
                    && let Some(stream) = &mut next.redis.stream
                {
                    stream.entries[index] = Entry::default();
                    stream.sort();
                }
                next.workers[worker] = Worker::Idle;
                if scope.has(Rule::DeletedEntriesAreALoss) {
                    // The loss belongs to the epoch in force now: it may be later than the one that the worker read.
                    let now = next.redis.marker.epoch();
                    note_loss(next, now, false);
                }
                true
            }),
            Place::Empty | Place::Acknowledged => {}
        }
    }
}

/// Whether a transaction of this epoch may record, reject, confirm or end an order; checked under the fence's shared lock.
pub fn may_write(state: &State, scope: &Scope, epoch: Epoch) -> bool {
    let postgres = &state.postgres;
    let same_epoch = !scope.has(Rule::RecordingEpoch) || postgres.row.epoch == epoch;
    let same_server = !scope.has(Rule::PostgresIdentity)
        || (postgres.row.identity == postgres.identity && postgres.position >= state.redis.noted);
    same_epoch && same_server && !postgres.row.lost
}

fn insert(
    state: &State,
    scope: &Scope,
    worker: usize,
    (epoch, generation, order): (Epoch, u8, Order),
    steps: &mut Steps,
) {
    // Waits for the transaction that locks the coupon's row.
    if state.row_is_locked() {
        return;
    }
    let postgres = &state.postgres;
    if !may_write(state, scope, epoch) {
        let is_older = scope.has(Rule::PostgresIdentity) && postgres.position < state.redis.noted;
        return steps.take("a worker is fenced", |next| {
            next.workers[worker] = Worker::Idle;
            if is_older {
                note_loss(next, epoch, true);
            }
            true
        });
    }
    let has_key = |other: &Order| {
        scope.slots
            && postgres.status[usize::from(*other)].is_live()
            && state.users.key_of(*other) == state.users.key_of(order)
    };
    let has_other = postgres.live(user_of(order)).is_some() || (0..ORDERS as u8).any(|other| has_key(&other));
    if postgres.has_row(order) {
        steps.take("a worker finds its order recorded", |next| {
            next.workers[worker] = Worker::Ended(epoch, generation, order, false);
            true
        });
    } else if has_other || postgres.coupon.stock <= 0 {
        if has_other || scope.has(Rule::StockShortRejects) {
            steps.take("an event is refused permanently", |next| {
                next.workers[worker] = Worker::Refused(epoch, generation, order);
                true
            });
        }
    } else {
        let status = if scope.reserves { Status::Reserved } else { Status::Confirmed };
        steps.take("a worker inserts an order", |next| {
            next.workers[worker] = Worker::Open(epoch, generation, order, status);
            true
        });
    }
}

/// The second transaction: it writes a rejected order, its dead letter and its outbox row.
fn reject(
    state: &State,
    scope: &Scope,
    worker: usize,
    (epoch, generation, order): (Epoch, u8, Order),
    steps: &mut Steps,
) {
    if state.row_is_locked() {
        return;
    }
    let may = may_write(state, scope, epoch);
    let has_row = state.postgres.has_row(order);
    steps.take("a worker rejects an order", |next| {
        next.workers[worker] = match (may, has_row) {
            (false, _) => Worker::Idle,
            (true, true) => Worker::Ended(epoch, generation, order, false),
            (true, false) => Worker::Open(epoch, generation, order, Status::Rejected),
        };
        true
    });
}

fn commit(worker: usize, (epoch, generation, order): (Epoch, u8, Order), status: Status, steps: &mut Steps) {
    let is_rejected = status == Status::Rejected;
    steps.take("a worker commits", |next| {
        next.postgres.status[usize::from(order)] = status;
        next.due &= !bit(order);
        if is_rejected {
            next.postgres.outbox |= bit(order);
        } else {
            next.postgres.coupon.stock -= 1;
        }
        // Counted only if an older copy may come back: the position has no other use.
        next.postgres.position += u8::from(next.backup.is_some());
        next.workers[worker] = Worker::Ended(epoch, generation, order, is_rejected);
        // A comparison that began before this commit may have read neither the event nor the order.
        if next.users.to_compare == ToCompare::UnderWay {
            next.users.to_compare = ToCompare::Yes;
        }
        true
    });
}

fn acknowledge(
    scope: &Scope,
    worker: usize,
    (epoch, generation, order): (Epoch, u8, Order),
    rejected: bool,
    steps: &mut Steps,
) {
    steps.take("a worker acknowledges", |next| {
        next.workers[worker] = Worker::Idle;
        let position = next.postgres.position;
        if next.redis.marker != Marker::Ready(epoch) {
            return true;
        }
        let Some(stream) = next.redis.stream.as_mut().filter(|stream| stream.generation == generation) else {
            return true;
        };
        let own = Place::Pending(worker as u8);
        let is_its = |entry: &&mut Entry| {
            entry.order == order && matches!(entry.place, Place::Pending(_) | Place::Deleted(_))
        };
        let mut its: Vec<&mut Entry> = stream.entries.iter_mut().filter(is_its).collect();
        its.sort_by_key(|entry| (entry.place != own, matches!(entry.place, Place::Deleted(_))));
        let answered = !its.is_empty();
        if let Some(entry) = its.into_iter().next() {
            entry.place =
                if matches!(entry.place, Place::Deleted(_)) { Place::Empty } else { Place::Acknowledged };
        }
        forget_acknowledged(scope, &mut stream.entries);
        next.redis.noted = next.redis.noted.max(position);
        if rejected && answered && !scope.has(Rule::HashArbitrates) {
            // Without the rule, the answer 1 of XACK returns the unit.
            crate::serve::release_unit(&mut next.redis, order, scope);
        }
        true
    });
}

/// Drops acknowledged entries. They matter only to a group that is created again, or without `AcknowledgedDoNotCount`.
fn forget_acknowledged(scope: &Scope, entries: &mut [Entry]) {
    let matters =
        scope.faults.contains(&crate::Fault::GroupDestroyed) || !scope.has(Rule::AcknowledgedDoNotCount);
    let mut kept = 0;
    for entry in &mut *entries {
        if entry.place == Place::Empty {
            *entry = Entry::default();
        }
        if entry.place == Place::Acknowledged {
            let seen = kept & bit(entry.order) != 0;
            kept |= bit(entry.order);
            if !matters || seen {
                *entry = Entry::default();
            }
        }
    }
    entries.sort_unstable();
}
