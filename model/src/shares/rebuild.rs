//! The rebuild of a partition, and the restore of all partitions after a Postgres loss.

use super::state::{Hash, Marker, MoverStage, Rebuilder, SHARES, Share, Stage, State, count, counter};
use super::{Broken, Rule, Scope, Steps};

pub fn steps(state: &State, scope: &Scope, steps: &mut Steps) {
    if !scope.rebuilds {
        return;
    }
    restore(state, scope, steps);
    for p in 0..SHARES {
        let mine = state.rebuilders[p];
        match mine.stage {
            Stage::Idle if !state.is_up(p) && !state.postgres.rows[p].lost && may_start(state, scope) => {
                steps.take("a rebuild starts an epoch", |next| {
                    start(next, p);
                    true
                });
            }
            Stage::EpochWritten => steps.take("a rebuild sets its marker", |next| {
                let theirs = next.redis[p].marker;
                let is_replaced = next.redis[p].run != mine.run;
                if is_replaced
                    || counter(theirs.epoch()) >= counter(mine.epoch)
                        && theirs != Marker::Building(mine.epoch)
                {
                    next.rebuilders[p] = Rebuilder::default();
                    return true;
                }
                next.redis[p].marker = Marker::Building(mine.epoch);
                next.rebuilders[p].stage = Stage::Opened;
                true
            }),
            Stage::Opened => steps.take("a rebuild reads its share", |next| {
                next.rebuilders[p].share = next.postgres.rows[p].share;
                next.rebuilders[p].whole = next.postgres.whole;
                next.rebuilders[p].stage = Stage::DefinitionRead;
                true
            }),
            Stage::DefinitionRead if mine.lost => {
                on_redis(state, p, "a rebuild reads Redis", steps, |next| {
                    next.rebuilders[p].is_current &= next.redis[p].adds_up();
                    next.rebuilders[p].stage = Stage::Read;
                });
            }
            Stage::DefinitionRead => on_redis(state, p, "a rebuild decides", steps, |next| {
                if next.postgres.rows[p].epoch == mine.epoch {
                    keep(next, p);
                } else {
                    next.rebuilders[p] = Rebuilder::default();
                }
            }),
            Stage::Idle | Stage::Read => {}
            Stage::Decided => {
                on_redis(state, p, "a rebuild sets its share", steps, |next| set(next, scope, p));
            }
            Stage::Set => steps.take("a rebuild ends", |next| {
                let rows = &mut next.postgres.rows[p];
                if rows.epoch == mine.epoch {
                    rows.run = mine.run;
                }
                next.rebuilders[p] = Rebuilder::default();
                true
            }),
        }
    }
}

/// Runs a script that requires the marker of the rebuild, on a connection that does not reconnect to another server.
fn on_redis(state: &State, p: usize, name: &'static str, steps: &mut Steps, act: impl FnOnce(&mut State)) {
    let (redis, mine) = (&state.redis[p], &state.rebuilders[p]);
    let is_mine = redis.run == mine.run && redis.marker == Marker::Building(mine.epoch);
    steps.take(name, |next| {
        if is_mine {
            act(next);
        } else {
            next.rebuilders[p] = Rebuilder::default();
        }
        true
    });
}

/// The exclusive lock on the fence waits for open transactions of moves.
fn may_start(state: &State, scope: &Scope) -> bool {
    !state.movers.iter().any(|mover| mover.stage == MoverStage::Open) || !scope.has(Rule::CommitHoldsTheFence)
}

fn start(next: &mut State, p: usize) {
    let (redis, rows) = (&next.redis[p], &mut next.postgres.rows[p]);
    let is_later = counter(redis.marker.epoch()) > counter(rows.epoch);
    let is_current = if is_later {
        matches!(redis.marker, Marker::Ready(_))
    } else {
        redis.run == rows.run && redis.marker != Marker::None
    };
    let newest = counter(rows.epoch).max(counter(redis.marker.epoch())) + 1;
    let epoch = 8 * newest + next.faults;
    rows.epoch = epoch;
    rows.run = if is_current { redis.run } else { 0 };
    next.rebuilders[p] = Rebuilder {
        stage: Stage::EpochWritten,
        epoch,
        run: redis.run,
        lost: rows.lost,
        is_current,
        ..Rebuilder::default()
    };
}

/// Decides which orders Redis shall hold: the live ones, and claims and events without a row.
fn keep(next: &mut State, p: usize) {
    let (redis, rows) = (&next.redis[p], &next.postgres.rows[p]);
    let unrecorded = (redis.held | redis.stream) & !(rows.live | rows.dead);
    let mine = &mut next.rebuilders[p];
    mine.kept = rows.live | unrecorded;
    mine.resend = unrecorded & !redis.stream;
    mine.stage = Stage::Decided;
}

fn set(next: &mut State, scope: &Scope, p: usize) {
    let mine = next.rebuilders[p];
    let redis = &mut next.redis[p];
    let before = redis.hash.filter(|_| !scope.has(Rule::RebuildDropsTakes)).unwrap_or_default();
    redis.held = mine.kept;
    redis.stream |= mine.resend;
    redis.hash = Some(Hash {
        version: mine.share.version,
        total: mine.share.total,
        stock: mine.share.total - count(mine.kept),
        whole: mine.whole,
        taken: before.taken,
        taken_for: before.taken_for,
    });
    redis.marker = Marker::Ready(mine.epoch);
    redis.ready_run = redis.run;
    next.rebuilders[p].stage = Stage::Set;
}

fn restore(state: &State, scope: &Scope, steps: &mut Steps) {
    let is_joint = scope.has(Rule::LossSetsAllShares);
    let groups: &[&[usize]] = if is_joint { &[&[0, 1]] } else { &[&[0], &[1]] };
    for group in groups {
        let all = |stage: Stage| group.iter().all(|&p| state.rebuilders[p].stage == stage);
        let are_lost = group.iter().all(|&p| state.postgres.rows[p].lost);
        if are_lost
            && group.iter().all(|&p| [Stage::Idle, Stage::Read].contains(&state.rebuilders[p].stage))
            && !all(Stage::Read)
            && may_start(state, scope)
        {
            steps.take("the operator orders a restore", |next| {
                group.iter().for_each(|&p| start(next, p));
                true
            });
        }
        if are_lost && all(Stage::Read) {
            steps.take("a restore decides", |next| {
                decide(next, scope, group);
                true
            });
        }
    }
}

/// One transaction: which share has which units, and which orders are live.
fn decide(next: &mut State, scope: &Scope, group: &[usize]) {
    if group.iter().any(|&p| {
        next.postgres.rows[p].epoch != next.rebuilders[p].epoch
            || next.redis[p].run != next.rebuilders[p].run
            || next.redis[p].marker != Marker::Building(next.rebuilders[p].epoch)
    }) {
        for &p in group {
            next.rebuilders[p] = Rebuilder::default();
        }
        return;
    }
    let mut totals = next.postgres.rows.map(|rows| rows.share.total);
    let mut versions = next.postgres.rows.map(|rows| rows.share.version);
    let mut whole = None;
    for &p in group {
        let Some(hash) = next.redis[p].hash.filter(|_| next.rebuilders[p].is_current) else { continue };
        let rows = &mut next.postgres.rows[p];
        let ended = rows.live & !next.redis[p].held;
        rows.live &= !ended;
        rows.dead |= ended;
        let is_newer = hash.version > versions[p];
        if is_newer && scope.has(Rule::LossTakesOverShares) {
            whole = whole.max(Some(hash.whole));
        }
        if (is_newer || scope.has(Rule::LossTakesOverTakes)) && scope.has(Rule::LossTakesOverShares) {
            totals[p] = hash.total;
        }
        versions[p] = versions[p].max(hash.version);
    }
    let whole = whole.unwrap_or(next.postgres.whole);
    if group.len() == SHARES {
        give_rest(next, &mut totals, whole);
    }
    next.postgres.whole = if group.len() == SHARES { totals.iter().sum() } else { whole };
    for &p in group {
        let rows = &mut next.postgres.rows[p];
        let stock = totals[p] - count(rows.live);
        rows.share = Share { version: versions[p] + 1, total: totals[p], stock };
        rows.lost = false;
        if stock < 0 {
            next.broken = Some(Broken::BelowZero);
        }
        next.rebuilders[p].share = rows.share;
        keep(next, p);
    }
    for &p in group {
        next.rebuilders[p].whole = next.postgres.whole;
    }
}

/// The units that no believed share has go to the other shares. If the shares have more than the coupon, it is raised.
fn give_rest(next: &State, totals: &mut [i8; SHARES], whole: i8) {
    let is_current = |p: &usize| next.rebuilders[*p].is_current;
    let to = (0..SHARES).find(|p| !is_current(p));
    let has_taken = |p: &usize| next.redis[*p].hash.is_some_and(|hash| hash.taken > 0);
    let to = to.or_else(|| (0..SHARES).find(has_taken)).unwrap_or(0);
    let rest = whole - totals.iter().sum::<i8>();
    let least = count(next.postgres.rows[to].live);
    totals[to] = if is_current(&to) { totals[to] + rest.max(0) } else { (totals[to] + rest).max(least) };
}
