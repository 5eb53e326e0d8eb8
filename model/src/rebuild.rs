//! A rebuild, step by step (`fence/rebuild`, `lua/rebuild_*.lua`): take the lock, probe both stores, write a new epoch,
//! set the `building` marker, read both stores, decide in one transaction, apply the differences in chunks, set the
//! `ready` marker.

mod connections;

use self::connections::{on_postgres, on_redis, read};
use crate::serve::agrees;
use crate::state::{
    Coupon, Entry, Marker, Place, REBUILDERS, Rebuilder, Stage, State, Status, Stream, USERS, bit, counter,
    each,
};
use crate::steps::Steps;
use crate::{Rule, Scope, decide, postgres_loss};

pub fn steps(state: &State, scope: &Scope, steps: &mut Steps) {
    for index in 0..scope.rebuilders {
        let rebuilder = &state.rebuilders[index];
        match rebuilder.stage {
            Stage::Idle => begin(state, scope, index, steps),
            Stage::Locked => probe(state, scope, index, steps),
            Stage::Probed => start_epoch(state, scope, index, steps),
            Stage::EpochWritten => on_redis(state, scope, index, "a rebuild sets its marker", steps, open),
            Stage::Opened => {
                let lacks_commits = scope.has(Rule::PromotionIsComparedAgain)
                    && !state.rebuilders[index].postgres_lost
                    && postgres_loss::lacks_commits(&state.redis, &state.postgres, scope);
                on_postgres(state, scope, index, "a rebuild reads definitions", steps, |next, index| {
                    if lacks_commits {
                        next.postgres.row.lost = true;
                        return stop(next, index);
                    }
                    next.rebuilders[index].definition = next.postgres.coupon;
                    next.rebuilders[index].stage = Stage::DefinitionRead;
                });
            }
            Stage::DefinitionRead => {
                let scope = scope.clone();
                read(state, index, "a rebuild reads the claims", steps, move |next, index| {
                    read_claims(next, index, &scope);
                });
            }
            Stage::ClaimsRead => {
                let counts_acknowledged = !scope.has(Rule::AcknowledgedDoNotCount);
                read(state, index, "a rebuild reads the events", steps, move |next, index| {
                    let stream = next.redis.stream.unwrap_or_default();
                    next.rebuilders[index].events = stream.orders(|place| {
                        matches!(place, Place::Undelivered | Place::Pending(_))
                            || (counts_acknowledged && place == Place::Acknowledged)
                    });
                    next.rebuilders[index].deleted =
                        stream.orders(|place| matches!(place, Place::Deleted(_)));
                    next.rebuilders[index].stage = Stage::EventsRead;
                });
            }
            Stage::EventsRead => decide(state, scope, index, steps),
            Stage::Decided => apply(state, scope, index, steps),
            Stage::FieldsApplied => {
                on_redis(state, scope, index, "a rebuild sets the coupon", steps, set_coupon);
            }
            Stage::CouponSet => on_redis(state, scope, index, "a rebuild sends events", steps, send),
            Stage::Resent => {
                on_redis(state, scope, index, "a rebuild sets the ready marker", steps, |next, index, _| {
                    next.redis.noted = next.rebuilders[index].position;
                    next.redis.marker = Marker::Ready(next.rebuilders[index].epoch);
                    next.users.loss_pending &= !next.rebuilders[index].ordered;
                    next.rebuilders[index].stage = Stage::Ready;
                    true
                });
            }
            Stage::Ready => {
                on_postgres(state, scope, index, "a rebuild records publications", steps, |next, index| {
                    let Rebuilder { epoch, definition, .. } = next.rebuilders[index];
                    let postgres = &mut next.postgres;
                    // The same statement as a publication's.
                    if postgres.row.epoch == epoch && definition.version <= postgres.coupon.version {
                        postgres.published = postgres.published.max(definition.version);
                    }
                    next.rebuilders[index].stage = Stage::Published;
                });
            }
            Stage::Published => on_postgres(state, scope, index, "a rebuild ends", steps, |next, index| {
                if next.postgres.row.epoch == next.rebuilders[index].epoch {
                    next.postgres.row.lost = false;
                    next.postgres.row.run = next.rebuilders[index].run;
                    next.postgres.agree();
                }
                stop(next, index);
            }),
        }
    }
}

/// Ends a rebuild, done or not; the end of its session releases the lock.
pub fn stop(next: &mut State, index: usize) {
    if next.lock == Some(index as u8) && next.rebuilders[index].session_lives {
        next.lock = None;
    }
    next.rebuilders[index] = Rebuilder::default();
}

fn begin(state: &State, scope: &Scope, index: usize, steps: &mut Steps) {
    if state.lock.is_some() {
        return;
    }
    let row = &state.postgres.row;
    let knows_loss = index == 0 && state.server.loss.is_some_and(|(epoch, _)| epoch == row.epoch);
    let is_down = index > 0 || state.server.session.is_none();
    let waits_for_operator = postgres_loss::waits_for_operator(state, scope);
    let by_postgres = knows_loss && state.server.loss.is_some_and(|(_, by_postgres)| by_postgres);
    let may_order = postgres_loss::is_lost(&state.redis, &state.postgres, scope, by_postgres);
    let has_reason = knows_loss || !agrees(&state.redis, &state.postgres, scope);
    let lock = |ordered: bool| {
        move |next: &mut State| {
            next.lock = Some(index as u8);
            next.rebuilders[index] =
                Rebuilder { stage: Stage::Locked, ordered, session_lives: true, ..Rebuilder::default() };
            if ordered {
                next.server.session = None;
                next.orders += u8::from(!may_order);
            }
            true
        }
    };
    if is_down && has_reason && !waits_for_operator {
        steps.take("a rebuild takes the lock", lock(false));
    }
    if index == 0 && (may_order || state.orders < scope.orders) {
        steps.take("the operator orders a rebuild", lock(true));
    }
}

fn probe(state: &State, scope: &Scope, index: usize, steps: &mut Steps) {
    let rebuilder = state.rebuilders[index];
    let row = state.postgres.row;
    let loss = state.server.loss.filter(|&(epoch, _)| index == 0 && epoch == row.epoch);
    on_postgres(state, scope, index, "a rebuild probes the stores", steps, |next, index| {
        if !rebuilder.ordered && loss.is_none() && agrees(&next.redis, &next.postgres, scope) {
            return stop(next, index);
        }
        let by_postgres = loss.is_some_and(|(_, by_postgres)| by_postgres);
        let is_lost = postgres_loss::is_lost(&next.redis, &next.postgres, scope, by_postgres);
        if is_lost && !rebuilder.ordered {
            next.postgres.row.lost = scope.has(Rule::LossIsNoted);
            return stop(next, index);
        }
        if next.redis.marker == Marker::Ready(row.epoch) {
            next.postgres.agree();
        }
        let newest = counter(row.epoch).max(counter(state.redis.marker.epoch())) + 1;
        let mine = &mut next.rebuilders[index];
        mine.epoch = 8 * newest + 2 * state.faults + index as u8;
        mine.run = state.redis.run;
        mine.postgres_lost = is_lost;
        mine.may_cancel = postgres_loss::may_cancel(&state.redis, row.epoch, row.run);
        mine.stage = Stage::Probed;
    });
}

fn start_epoch(state: &State, scope: &Scope, index: usize, steps: &mut Steps) {
    // The exclusive lock waits for every open recording transaction.
    if scope.has(Rule::FenceLock) && state.row_is_locked() {
        return;
    }
    on_postgres(state, scope, index, "a rebuild starts an epoch", steps, |next, index| {
        let Rebuilder { epoch, run, postgres_lost, may_cancel, .. } = next.rebuilders[index];
        let row = &mut next.postgres.row;
        row.epoch = epoch;
        // 0 until the rebuild ends: after a kill, no process may take this Redis for the one of the epoch.
        row.run = if may_cancel { run } else { 0 };
        row.identity = next.postgres.identity;
        row.lost = postgres_lost && scope.has(Rule::LossIsNoted);
        next.rebuilders[index].stage = Stage::EpochWritten;
    });
}

fn open(next: &mut State, index: usize, scope: &Scope) -> bool {
    let epoch = next.rebuilders[index].epoch;
    let theirs = next.redis.marker.epoch();
    let is_newer = counter(theirs) > counter(epoch)
        || (counter(theirs) == counter(epoch) && next.redis.marker != Marker::Building(epoch));
    if is_newer && scope.has(Rule::BuildingMarker) {
        stop(next, index);
        return true;
    }
    next.redis.marker = Marker::Building(epoch);
    let generation = next.faults;
    let stream = next.redis.stream.get_or_insert(Stream { generation, ..Stream::default() });
    if !stream.has_group {
        stream.has_group = true;
        for entry in &mut stream.entries {
            entry.place = match (entry.place, scope.has(Rule::GroupAtZero)) {
                (Place::Empty | Place::Deleted(_), _) => Place::Empty,
                (_, true) => Place::Undelivered,
                (_, false) => Place::Acknowledged,
            };
        }
        stream
            .entries
            .iter_mut()
            .filter(|entry| entry.place == Place::Empty)
            .for_each(|entry| *entry = Entry::default());
        stream.sort();
    }
    next.rebuilders[index].stage = Stage::Opened;
    true
}

fn read_claims(next: &mut State, index: usize, scope: &Scope) {
    // Only a claims hash that was consistent when it was read may cancel live orders.
    let is_consistent = next.redis.is_consistent() || !scope.has(Rule::LossChecksSum);
    let mine = &mut next.rebuilders[index];
    mine.is_consistent = is_consistent;
    mine.hash = next.redis.coupon;
    mine.claims = next.redis.claims;
    mine.line = next.redis.line;
    mine.stage = Stage::ClaimsRead;
}

/// Decides which user keeps which order (`fence/rebuild/decide.rs`), in one transaction.
fn decide(state: &State, scope: &Scope, index: usize, steps: &mut Steps) {
    let plan = decide::plan(state, scope, index);
    let is_edited = plan.definition.version != state.postgres.coupon.version;
    // Its writes wait for the transaction that locks the rows.
    let restarts = if state.rebuilders[index].postgres_lost && scope.has(Rule::LossRestartsDeadlines) {
        decide::reserved(state)
    } else {
        0
    };
    let (rows, line) = decide::lines(state, scope, index, &plan);
    let writes = plan.rejected | plan.cancelled | restarts != 0 || is_edited || rows != state.postgres.line;
    if state.row_is_locked() && writes {
        return;
    }
    let mine = state.rebuilders[index];
    let is_stale = is_edited && mine.definition.version != state.postgres.coupon.version;
    let is_newer = !mine.postgres_lost
        && scope.has(Rule::HigherVersionIsALoss)
        && mine.is_consistent
        && mine.hash.is_some_and(|hash| hash.version > mine.definition.version);
    let decided = |next: &mut State, index: usize| {
        let is_older = next.postgres.row.epoch != mine.epoch && scope.has(Rule::DecisionIsFenced);
        if is_newer {
            next.postgres.row.lost = true;
            return stop(next, index);
        }
        if is_stale || (writes && is_older) {
            return stop(next, index);
        }
        for order in each(plan.cancelled) {
            next.postgres.status[usize::from(order)] = Status::Cancelled;
        }
        for order in each(plan.rejected) {
            next.postgres.status[usize::from(order)] = Status::Rejected;
            next.postgres.outbox |= bit(order);
        }
        next.due &= !restarts;
        // The rebuild reports every reserved order: the operator compares them with the payments.
        next.users.confirmed &= !restarts;
        if mine.postgres_lost {
            // An order without a row is recorded as reserved, with a new time to pay.
            next.users.confirmed &= decide::recorded(next);
        }
        next.postgres.line = rows;
        next.postgres.coupon = plan.definition;
        next.postgres.position += u8::from(next.backup.is_some() && writes);
        if mine.postgres_lost {
            decide::show_definition(next, &mine, is_edited);
        }
        let mine = &mut next.rebuilders[index];
        if is_edited {
            mine.definition = plan.definition;
        }
        mine.kept = plan.kept;
        mine.line = line;
        mine.resend = plan.resend;
        mine.stage = Stage::Decided;
    };
    if scope.has(Rule::DecisionIsFenced) {
        on_postgres(state, scope, index, "a rebuild decides", steps, decided);
    } else {
        // On any session: the rebuild does not notice that the session of its lock is dead.
        steps.take("a rebuild decides", |next| {
            decided(next, index);
            true
        });
    }
}

/// Applies one field a step, the smallest possible chunk.
fn apply(state: &State, scope: &Scope, index: usize, steps: &mut Steps) {
    let mine = state.rebuilders[index];
    let Some(user) = (0..USERS).find(|&user| mine.kept[user] != mine.claims[user]) else {
        return steps.take("a rebuild has applied all fields", |next| {
            next.rebuilders[index].stage = Stage::FieldsApplied;
            true
        });
    };
    on_redis(state, scope, index, "a rebuild applies a field", steps, move |next, index, scope| {
        let before = next.redis.held();
        next.redis.claims[user] = mine.kept[user];
        if let Some(order) = mine.kept[user]
            && scope.slots
            && !scope.has(Rule::RebuildKeepsKeys)
        {
            next.redis.keyless |= bit(order);
        }
        let moved = before - next.redis.held();
        if let Some(coupon) = &mut next.redis.coupon {
            coupon.stock += moved;
        }
        // An applied field is not a difference any more.
        next.rebuilders[index].claims[user] = mine.kept[user];
        true
    });
}

fn set_coupon(next: &mut State, index: usize, scope: &Scope) -> bool {
    let held = next.rebuilders[index].kept.iter().flatten().count() as i8;
    if scope.has(Rule::CouponCountsClaims) && next.redis.held() != held {
        stop(next, index);
        return true;
    }
    let definition = next.rebuilders[index].definition;
    next.redis.coupon = Some(Coupon { stock: definition.total - next.redis.held(), ..definition });
    next.users.in_force = next.users.in_force.max(definition.version);
    if scope.has(Rule::RebuildRestoresLine) {
        next.redis.line = next.rebuilders[index].line;
    }
    next.rebuilders[index].stage = Stage::CouponSet;
    true
}

fn send(next: &mut State, index: usize, _scope: &Scope) -> bool {
    let Rebuilder { resend, deleted, .. } = next.rebuilders[index];
    if !next.rebuilders[index].session_lives {
        stop(next, index);
        return true;
    }
    next.rebuilders[index].position = next.postgres.position;
    next.rebuilders[index].stage = Stage::Resent;
    let Some(stream) = &mut next.redis.stream else { return true };
    // The deleted pending entries are repaired.
    for entry in &mut stream.entries {
        if matches!(entry.place, Place::Deleted(_)) && deleted & bit(entry.order) != 0 {
            *entry = Entry::default();
        }
    }
    stream.sort();
    each(resend).all(|order| stream.add(order))
}

/// Whether no rebuild is under way.
#[must_use]
pub fn all_idle(state: &State) -> bool {
    (0..REBUILDERS).all(|index| state.rebuilders[index].stage == Stage::Idle)
}
