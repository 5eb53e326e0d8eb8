//! Injects faults into stores and processes, between any two steps.

use crate::fault::Fault;
use crate::state::{
    Coupon, Entry, Joining, Marker, Place, Postgres, REBUILDERS, Rebuilder, Redis, Releasing, Server, Stage,
    State, ToCompare, Worker, bit, each,
};
use crate::steps::Steps;
use crate::{Scope, compare, decide, postgres_loss, rebuild};

pub fn steps(state: &State, scope: &Scope, steps: &mut Steps) {
    copies(state, scope, steps);
    if state.faults >= scope.max_faults {
        return;
    }
    for &fault in scope.faults {
        offer(state, scope, fault, steps);
    }
}

/// A replica or a backup is taken at any moment before the first fault.
fn copies(state: &State, scope: &Scope, steps: &mut Steps) {
    if state.faults > 0 {
        return;
    }
    if scope.faults.contains(&Fault::RedisFailedOver) && state.replica.is_none() {
        steps.take("a replica of Redis falls behind", |next| {
            next.replica = Some(next.redis);
            true
        });
    }
    let copies = [Fault::PostgresOlderCopy, Fault::PostgresPromoted];
    if state.backup.is_none() && scope.faults.iter().any(|fault| copies.contains(fault)) {
        steps.take("a copy of Postgres is made", |next| {
            next.backup = Some(next.postgres);
            true
        });
    }
}

fn offer(state: &State, scope: &Scope, fault: Fault, steps: &mut Steps) {
    match fault {
        Fault::WorkerKilled => {
            for worker in (0..scope.workers).filter(|&worker| state.workers[worker] != Worker::Idle) {
                inject(fault, steps, |next| next.workers[worker] = Worker::Idle);
            }
        }
        Fault::RebuilderKilled => {
            for index in (0..scope.rebuilders).filter(|&index| state.rebuilders[index].stage != Stage::Idle) {
                inject(fault, steps, |next| {
                    rebuild::stop(next, index);
                    if index == 0 {
                        // Rebuilder 0 is the serving process.
                        restart_server(next);
                    }
                });
            }
        }
        Fault::ServerKilled => inject(fault, steps, |next| {
            restart_server(next);
            rebuild::stop(next, 0);
        }),
        Fault::SessionDropped => {
            let held = (0..scope.rebuilders).filter(|&index| state.rebuilders[index].session_lives);
            for index in held {
                inject(fault, steps, |next| drop_session(next, index));
            }
        }
        Fault::PostgresOlderCopy | Fault::PostgresPromoted => {
            if let Some(copy) = state.backup {
                if fault == Fault::PostgresPromoted {
                    inject(fault, steps, |next| promote(next, copy, scope));
                } else {
                    inject(fault, steps, |next| replace_postgres(next, copy, scope));
                }
            }
        }
        Fault::PostgresFailedOver => inject(fault, steps, |next| {
            promote(next, next.postgres, scope);
            next.users.loss_pending = false;
        }),
        Fault::DefinitionRestored => {
            let stock = scope.total - state.postgres.live_count();
            if state.postgres.coupon.version > 1 && stock >= 0 && !state.row_is_locked() {
                inject(fault, steps, |next| restore_definition(next, scope.total, stock));
            }
        }
        _ => on_redis(state, fault, steps),
    }
}

fn on_redis(state: &State, fault: Fault, steps: &mut Steps) {
    match fault {
        Fault::RedisRestarted => inject(fault, steps, |next| disconnect(next, next.redis)),
        Fault::RedisFlushed => {
            inject(fault, steps, |next| next.redis = Redis { run: next.redis.run, ..Redis::default() });
        }
        Fault::RedisFailedOver => {
            if let Some(replica) = state.replica {
                inject(fault, steps, |next| disconnect(next, replica));
            }
        }
        Fault::ClaimsDeleted => inject(fault, steps, |next| {
            next.redis.claims = Default::default();
            mark_for_comparison(next);
        }),
        Fault::CouponDeleted => inject(fault, steps, |next| next.redis.coupon = None),
        Fault::StreamDeleted => inject(fault, steps, |next| next.redis.stream = None),
        Fault::MarkerDeleted => inject(fault, steps, |next| next.redis.marker = Marker::None),
        Fault::StockEdited => inject(fault, steps, |next| {
            if let Some(coupon) = &mut next.redis.coupon {
                coupon.stock += 1;
            }
            mark_for_comparison(next);
        }),
        Fault::EntryDeleted | Fault::PendingDeleted => {
            let Some(stream) = state.redis.stream else { return };
            for (index, entry) in stream.entries.iter().enumerate() {
                let left = match (fault, entry.place) {
                    (Fault::EntryDeleted, Place::Undelivered) => Entry::default(),
                    (Fault::PendingDeleted, Place::Pending(worker)) => {
                        Entry { place: Place::Deleted(worker), ..*entry }
                    }
                    _ => continue,
                };
                inject(fault, steps, |next| {
                    if let Some(stream) = &mut next.redis.stream {
                        stream.entries[index] = left;
                        stream.sort();
                    }
                    // Only a comparison finds an entry that no worker had read.
                    if fault == Fault::EntryDeleted {
                        next.users.to_compare = ToCompare::Yes;
                    }
                });
            }
        }
        Fault::GroupDestroyed => inject(fault, steps, |next| {
            if let Some(stream) = &mut next.redis.stream {
                stream.has_group = false;
            }
        }),
        _ => {}
    }
}

/// The process loses its state; the next one compares everything when it starts.
fn restart_server(next: &mut State) {
    next.server = Server::default();
    compare::give_up(next);
    next.users.to_compare = ToCompare::Yes;
}

/// Two edits by hand may leave the coupon consistent: only a comparison finds that.
fn mark_for_comparison(next: &mut State) {
    if next.redis.is_consistent() {
        next.users.to_compare = ToCompare::Yes;
    }
}

fn inject(fault: Fault, steps: &mut Steps, act: impl Fn(&mut State)) {
    steps.inject(fault, |next| {
        act(next);
        next.faults += 1;
        // A loss that no store shows any more, and that was not recorded, cannot be found. A killed process hides no
        // loss.
        let is_of_a_process = matches!(
            fault,
            Fault::WorkerKilled | Fault::RebuilderKilled | Fault::ServerKilled | Fault::SessionDropped
        );
        let is_recorded = next.postgres.row.lost && !is_about_to_be_cleared(next);
        let was_pending = next.users.loss_pending;
        next.users.loss_pending &= is_of_a_process || is_recorded || is_detectable(next);
        let hid_a_loss = was_pending && !next.users.loss_pending;
        if !is_recorded && !next.users.loss_pending {
            next.users.confirmed &= if hid_a_loss { decide::confirmed(next) } else { u8::MAX };
            let in_redis = next.redis.consistent_coupon().map_or(0, |coupon| coupon.version);
            next.users.in_force = next.users.in_force.min(in_redis.max(next.postgres.coupon.version));
        }
        excuse(next);
    });
}

/// Whether an ordered rebuild has set its marker: its last step clears the recorded loss, which is the one before it.
fn is_about_to_be_cleared(state: &State) -> bool {
    state.rebuilders.iter().any(|rebuilder| rebuilder.ordered && rebuilder.stage >= Stage::Ready)
}

/// Excuses accepted orders that no store holds any more: no process can restore them.
fn excuse(next: &mut State) {
    let events = next.redis.stream.map_or(0, |stream| stream.unacknowledged());
    for order in each(next.users.accepted) {
        let is_known = next.postgres.has_row(order) || next.redis.holds(order) || events & bit(order) != 0;
        if !is_known {
            next.users.excused |= bit(order);
        }
    }
}

/// Another Redis process answers: all connections break.
fn disconnect(next: &mut State, redis: Redis) {
    /// The generation of no stream.
    const NO_STREAM: u8 = u8::MAX;
    next.redis = Redis { run: 10 + next.faults, ..redis };
    next.server.session = None;
    next.server.transition = next.server.transition.filter(|transition| transition.committed.is_none());
    compare::give_up(next);
    if next.server.publishing.is_some_and(|publication| !publication.is_answered) {
        next.server.publishing = None;
    }
    if matches!(next.server.releasing, Releasing::Picked(..)) {
        next.server.releasing = Releasing::Idle;
    }
    if matches!(next.server.joining, Joining::Row(..)) {
        next.server.joining = Joining::Idle;
    }
    for worker in &mut next.workers {
        *worker = match *worker {
            Worker::Idle | Worker::Marked(_) | Worker::Ended(..) => Worker::Idle,
            Worker::Has(epoch, _, order) => Worker::Has(epoch, NO_STREAM, order),
            Worker::Refused(epoch, _, order) => Worker::Refused(epoch, NO_STREAM, order),
            Worker::Open(epoch, _, order, status) => Worker::Open(epoch, NO_STREAM, order, status),
        };
    }
}

/// The standby writes to a timeline of its own. The effects of commits that its primary has answered may still arrive in
/// Redis.
fn promote(next: &mut State, standby: Postgres, scope: &Scope) {
    /// The standby's WAL grows: its position does not show what it lacks.
    const LATER: u8 = 100;
    let Server { releasing, publishing, transition, .. } = next.server;
    let Postgres { identity, position, .. } = standby;
    let mut promoted = Postgres { identity: identity + 1, position: LATER, ..standby };
    promoted.left_at[usize::from(identity) - 1] = position;
    replace_postgres(next, promoted, scope);
    if matches!(releasing, Releasing::Picked(..)) {
        next.server.releasing = releasing;
    }
    next.server.publishing = publishing.filter(|publication| !publication.is_answered);
    next.server.transition = transition.filter(|transition| transition.committed.is_some());
}

/// Whether a store still shows the Postgres loss.
fn is_detectable(state: &State) -> bool {
    let State { redis, postgres, .. } = state;
    let is_older = redis.noted > postgres.position || redis.marker.epoch() > postgres.row.epoch;
    let is_newer = redis.consistent_coupon().is_some_and(|coupon| coupon.version > postgres.coupon.version);
    !redis.is_empty()
        && (is_older || is_newer || postgres_loss::may_lack_commits(redis, postgres, &Scope::small()))
}

fn replace_postgres(next: &mut State, by: Postgres, scope: &Scope) {
    // Redis no longer holds ended orders: no process can restore their rows.
    next.users.excused |= next.users.accepted & next.postgres.dead();
    next.postgres = by;
    next.postgres.row.with_standby = scope.is_synchronous();
    next.users.loss_pending = is_detectable(next);
    if next.faults > 0 && !next.users.loss_pending {
        // An earlier fault has hidden the loss from Redis.
        next.users.confirmed &= decide::confirmed(next);
    }
    next.backup = None;
    // Replacing a database takes longer than the timeout of one command; connections to the old one break.
    next.server.releasing = Releasing::Idle;
    next.server.sweep = None;
    next.server.transition = None;
    next.server.joining = Joining::Idle;
    if next.server.publishing.is_some_and(|publication| !publication.is_answered) {
        next.server.publishing = None;
    }
    next.users.to_compare = ToCompare::Yes;
    next.workers = Default::default();
    for index in 0..REBUILDERS {
        drop_session(next, index);
    }
}

/// A publication that is under way may still arrive in Redis.
fn restore_definition(next: &mut State, total: i8, stock: i8) {
    next.users.lowered |= total < next.postgres.coupon.total;
    next.postgres.coupon = Coupon { total, stock, version: 1, paused: false };
    next.postgres.published = 1;
    next.users.loss_pending |= is_detectable(next);
}

fn drop_session(next: &mut State, index: usize) {
    if next.lock == Some(index as u8) {
        next.lock = None;
    }
    let rebuilder: &mut Rebuilder = &mut next.rebuilders[index];
    rebuilder.session_lives = false;
}
