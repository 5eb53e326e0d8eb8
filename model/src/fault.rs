//! What happens to stores and processes, between any two steps.

use crate::search::Steps;
use crate::state::{
    Coupon, Entry, Marker, Place, Postgres, REBUILDERS, Rebuilder, Redis, Returning, Server, Stage, State,
    ToCompare, Worker, bit, each,
};
use crate::{Scope, compare, rebuild};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A worker is killed, or its connection to Postgres breaks: an open transaction is gone.
    WorkerKilled,
    /// The process that rebuilds is killed.
    RebuilderKilled,
    ServerKilled,
    /// Postgres drops the session that holds a rebuild's lock; its owner notices at its next statement.
    SessionDropped,
    /// Redis restarts with all its data: connections break, the run id changes, scripts are gone.
    RedisRestarted,
    RedisFlushed,
    /// A replica that is behind takes Redis's place.
    RedisFailedOver,
    ClaimsDeleted,
    CouponDeleted,
    StreamDeleted,
    MarkerDeleted,
    StockEdited,
    /// An entry is deleted or trimmed before anybody has read it.
    EntryDeleted,
    /// An entry is deleted or trimmed that a worker has read and not acknowledged.
    PendingDeleted,
    GroupDestroyed,
    /// An older copy of Postgres takes its place, the same server by its name.
    PostgresOlderCopy,
    /// A replica of Postgres that is behind is promoted.
    PostgresPromoted,
    /// The coupon's first definition is put back by hand, as from a dump.
    DefinitionRestored,
}

pub fn steps(state: &State, scope: &Scope, steps: &mut Steps) {
    copies(state, scope, steps);
    if state.faults >= scope.max_faults {
        return;
    }
    for &fault in scope.faults {
        happen(state, scope, fault, steps);
    }
}

/// The moment at which a replica or a backup stopped following: any one.
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

fn happen(state: &State, scope: &Scope, fault: Fault, steps: &mut Steps) {
    match fault {
        Fault::WorkerKilled => {
            for worker in (0..scope.workers).filter(|&worker| state.workers[worker] != Worker::Idle) {
                strike(fault, steps, |next| next.workers[worker] = Worker::Idle);
            }
        }
        Fault::RebuilderKilled => {
            for index in (0..scope.rebuilders).filter(|&index| state.rebuilders[index].stage != Stage::Idle) {
                strike(fault, steps, |next| {
                    rebuild::stop(next, index);
                    if index == 0 {
                        // It is the serving process.
                        restart_server(next);
                    }
                });
            }
        }
        Fault::ServerKilled => strike(fault, steps, |next| {
            restart_server(next);
            rebuild::stop(next, 0);
        }),
        Fault::SessionDropped => {
            let held = (0..scope.rebuilders).filter(|&index| state.rebuilders[index].session_lives);
            for index in held {
                strike(fault, steps, |next| drop_session(next, index));
            }
        }
        Fault::PostgresOlderCopy | Fault::PostgresPromoted => {
            if let Some(copy) = state.backup {
                let identity = copy.identity + u8::from(fault == Fault::PostgresPromoted);
                let put_back = Postgres { identity, ..copy };
                strike(fault, steps, |next| replace_postgres(next, put_back));
            }
        }
        Fault::DefinitionRestored => {
            let stock = scope.total - state.postgres.live_count();
            if state.postgres.coupon.version > 1 && stock >= 0 && !state.row_is_locked() {
                strike(fault, steps, |next| restore_definition(next, scope.total, stock));
            }
        }
        _ => on_redis(state, fault, steps),
    }
}

fn on_redis(state: &State, fault: Fault, steps: &mut Steps) {
    match fault {
        Fault::RedisRestarted => strike(fault, steps, |next| disconnect(next, next.redis)),
        Fault::RedisFlushed => {
            strike(fault, steps, |next| next.redis = Redis { run: next.redis.run, ..Redis::default() });
        }
        Fault::RedisFailedOver => {
            if let Some(replica) = state.replica {
                strike(fault, steps, |next| disconnect(next, replica));
            }
        }
        Fault::ClaimsDeleted => strike(fault, steps, |next| {
            next.redis.claims = Default::default();
            hide(next);
        }),
        Fault::CouponDeleted => strike(fault, steps, |next| next.redis.coupon = None),
        Fault::StreamDeleted => strike(fault, steps, |next| next.redis.stream = None),
        Fault::MarkerDeleted => strike(fault, steps, |next| next.redis.marker = Marker::None),
        Fault::StockEdited => strike(fault, steps, |next| {
            if let Some(coupon) = &mut next.redis.coupon {
                coupon.stock += 1;
            }
            hide(next);
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
                strike(fault, steps, |next| {
                    if let Some(stream) = &mut next.redis.stream {
                        stream.entries[index] = left;
                        stream.sort();
                    }
                    // Only a comparison finds what nobody had read.
                    if fault == Fault::EntryDeleted {
                        next.users.to_compare = ToCompare::Yes;
                    }
                });
            }
        }
        Fault::GroupDestroyed => strike(fault, steps, |next| {
            if let Some(stream) = &mut next.redis.stream {
                stream.has_group = false;
            }
        }),
        _ => {}
    }
}

/// What it knew is gone with it; everything is compared once it is up again.
fn restart_server(next: &mut State) {
    next.server = Server::default();
    compare::give_up(next);
    next.users.to_compare = ToCompare::Yes;
}

/// Two hands may slip so that the sum holds again: only a comparison finds that.
fn hide(next: &mut State) {
    if next.redis.adds_up() {
        next.users.to_compare = ToCompare::Yes;
    }
}

fn strike(fault: Fault, steps: &mut Steps, act: impl Fn(&mut State)) {
    steps.strike(fault, |next| {
        act(next);
        next.faults += 1;
        // What nothing tells of any more and was not noticed before cannot be seen; no process takes it along.
        let is_of_a_process = matches!(
            fault,
            Fault::WorkerKilled | Fault::RebuilderKilled | Fault::ServerKilled | Fault::SessionDropped
        );
        next.users.unseen &= is_of_a_process || next.postgres.row.lost || is_told_of(next);
        if !next.postgres.row.lost && !next.users.unseen {
            let in_redis = next.redis.believable().map_or(0, |coupon| coupon.version);
            next.users.in_force = next.users.in_force.min(in_redis.max(next.postgres.coupon.version));
        }
        excuse(next);
    });
}

/// Nobody can make an order that no store holds any more; whoever was told of it is to be excused.
fn excuse(next: &mut State) {
    let events = next.redis.stream.map_or(0, |stream| stream.unacknowledged());
    for order in each(next.users.told) {
        let is_known = next.postgres.has_row(order) || next.redis.holds(order) || events & bit(order) != 0;
        if !is_known {
            next.users.excused |= bit(order);
        }
    }
}

/// Another Redis process answers: every connection is a new one.
fn disconnect(next: &mut State, redis: Redis) {
    /// No stream's generation.
    const NO_STREAM: u8 = u8::MAX;
    next.redis = Redis { run: 10 + next.faults, ..redis };
    next.server.session = None;
    compare::give_up(next);
    if next.server.publishing.is_some_and(|publication| !publication.is_answered) {
        next.server.publishing = None;
    }
    if matches!(next.server.returning, Returning::Picked(..)) {
        next.server.returning = Returning::Idle;
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

/// Whether anything is left by which lost commits can be noticed.
fn is_told_of(state: &State) -> bool {
    let State { redis, postgres, .. } = state;
    let is_older = redis.noted > postgres.position || redis.marker.epoch() > postgres.row.epoch;
    let is_newer = redis.believable().is_some_and(|coupon| coupon.version > postgres.coupon.version);
    !redis.is_empty() && (is_older || is_newer || postgres.identity != postgres.row.identity)
}

fn replace_postgres(next: &mut State, by: Postgres) {
    // Redis no longer holds what had ended: nobody can make these rows again.
    next.users.excused |= next.users.told & next.postgres.dead();
    next.postgres = by;
    next.users.unseen = is_told_of(next);
    next.backup = None;
    // A database is not swapped within the time-out of one command; a connection to the one that is gone breaks.
    next.server.returning = Returning::Idle;
    if next.server.publishing.is_some_and(|publication| !publication.is_answered) {
        next.server.publishing = None;
    }
    next.users.to_compare = ToCompare::Yes;
    next.workers = Default::default();
    for index in 0..REBUILDERS {
        drop_session(next, index);
    }
}

/// What was on its way to Redis may still arrive.
fn restore_definition(next: &mut State, total: i8, stock: i8) {
    next.users.lowered |= total < next.postgres.coupon.total;
    next.postgres.coupon = Coupon { total, stock, version: 1, paused: false };
    next.postgres.published = 1;
    next.users.unseen |= is_told_of(next);
}

fn drop_session(next: &mut State, index: usize) {
    if next.lock == Some(index as u8) {
        next.lock = None;
    }
    let rebuilder: &mut Rebuilder = &mut next.rebuilders[index];
    rebuilder.session_lives = false;
}
