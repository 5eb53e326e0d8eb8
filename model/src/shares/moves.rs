//! A move of units from one share to the other, a lowering of the total, and the end of a take that was abandoned.

use super::state::{Marker, Mover, MoverStage as Stage, Redis, SHARES, State, Take};
use super::{Rule, Scope, Steps};

pub fn steps(state: &State, scope: &Scope, steps: &mut Steps) {
    for index in 0..scope.movers {
        let mover = state.movers[index];
        match mover.stage {
            Stage::Idle => begin(state, scope, index, steps),
            Stage::Sent => send(state, scope, index, steps),
            Stage::Answered if mover.lowers > 0 => lower(state, scope, index, steps),
            Stage::Answered | Stage::Given => commit(state, scope, index, steps),
            Stage::Open => steps.take("a move is committed", |next| {
                write(next, index);
                true
            }),
        }
        if mover.stage != Stage::Idle {
            steps.take("a mover dies", |next| {
                next.movers[index] = Mover::default();
                true
            });
        }
    }
    if let Some(take) = state.late {
        for (name, arrives) in [("a late take arrives", true), ("a late take is lost", false)] {
            steps.take(name, |next| {
                next.late = None;
                if arrives {
                    take_script(&mut next.redis[usize::from(take.from)], scope, take);
                }
                true
            });
        }
    }
    (0..SHARES).for_each(|p| cancel(state, scope, p, steps));
}

fn begin(state: &State, scope: &Scope, index: usize, steps: &mut Steps) {
    let epochs = state.postgres.rows.map(|rows| rows.epoch);
    let versions = state.postgres.rows.map(|rows| rows.share.version);
    let mover = Mover { stage: Stage::Sent, epochs, versions, ..Mover::default() };
    if state.moves < scope.moves {
        for (p, &units) in (0..SHARES).flat_map(|p| scope.sizes.iter().map(move |units| (p, units))) {
            if !state.is_up(p) {
                continue;
            }
            if scope.has(Rule::TakeFirst) {
                let sent = Mover { from: p as u8, units, ..mover };
                steps.take("a take is sent", |next| {
                    next.moves += 1;
                    next.movers[index] = sent;
                    true
                });
            } else if state.postgres.rows[p].share.stock >= units {
                let mut got = [0; SHARES];
                got[p] = units;
                let answered = Mover { from: p as u8, units, got, ..mover };
                steps.take("a move is committed", |next| {
                    next.moves += 1;
                    next.movers[index] = answered;
                    write(next, index);
                    true
                });
            }
        }
    }
    if let Some(&units) = scope.lowers.get(usize::from(state.lowers))
        && (0..SHARES).all(|p| state.is_up(p))
    {
        let sent = Mover { lowers: units, units, ..mover };
        steps.take("a lowering begins", |next| {
            next.lowers += 1;
            next.movers[index] = sent;
            true
        });
    }
}

fn send(state: &State, scope: &Scope, index: usize, steps: &mut Steps) {
    let mover = state.movers[index];
    let p = usize::from(mover.from);
    let take = Take {
        from: mover.from,
        epoch: mover.epochs[p],
        version: mover.versions[p],
        units: mover.units,
        run: state.postgres.rows[p].run,
    };
    for (name, is_answered, is_doubled) in [
        ("a take is answered", true, false),
        ("a take is answered and arrives again later", true, true),
        ("an answer to a take is lost", false, false),
    ] {
        if is_doubled && state.late.is_some() {
            continue;
        }
        steps.take(name, |next| {
            let got = take_script(&mut next.redis[p], scope, take);
            if is_doubled {
                next.late = Some(take);
            }
            let mine = &mut next.movers[index];
            match got.filter(|_| is_answered) {
                Some(got) if got > 0 || mine.lowers > 0 => {
                    mine.got[p] = if scope.has(Rule::CommitOfTheAnswer) { got } else { mover.units };
                    mine.stage = Stage::Answered;
                }
                _ if !is_answered => {}
                _ => *mine = Mover::default(),
            }
            true
        });
    }
    if state.late.is_none() {
        steps.take("a mover dies before its take arrives", |next| {
            next.movers[index] = Mover::default();
            next.late = Some(take);
            true
        });
    }
}

/// The script of a take. Returns the units, or nothing if it refuses.
fn take_script(redis: &mut Redis, scope: &Scope, take: Take) -> Option<i8> {
    let is_of_its_server = redis.run == take.run || !scope.has(Rule::TakeOfItsServer);
    let is_of_its_epoch = redis.marker == Marker::Ready(take.epoch) || !scope.has(Rule::TakeOfItsEpoch);
    if !is_of_its_server || !is_of_its_epoch || !redis.adds_up() {
        return None;
    }
    let hash = redis.hash.as_mut()?;
    if hash.version != take.version && scope.has(Rule::TakeOfItsVersion) {
        return None;
    }
    let taken_for = take.version + 1;
    if hash.taken_for == taken_for && scope.has(Rule::TakeIsNoted) {
        return Some(hash.taken);
    }
    let units = if scope.has(Rule::TakeAtMostStock) { take.units.min(hash.stock.max(0)) } else { take.units };
    if units > 0 {
        hash.taken = if hash.taken_for == taken_for { hash.taken + units } else { units };
        hash.taken_for = taken_for;
        hash.total -= units;
        hash.stock -= units;
    }
    Some(units)
}

fn may_commit(state: &State, scope: &Scope, mover: &Mover) -> bool {
    (0..SHARES).filter(|&p| mover.got[p] > 0).all(|p| {
        let rows = &state.postgres.rows[p];
        (rows.epoch == mover.epochs[p] || !scope.has(Rule::CommitOfItsEpoch))
            && (rows.share.version == mover.versions[p] || !scope.has(Rule::CommitOfItsVersion))
            && rows.share.stock >= mover.got[p]
    }) && !state.postgres.is_lost()
}

fn commit(state: &State, scope: &Scope, index: usize, steps: &mut Steps) {
    let mover = state.movers[index];
    let to = SHARES - 1 - usize::from(mover.from);
    if !scope.has(Rule::CommitBeforeUnits) && mover.stage == Stage::Answered && state.is_up(to) {
        steps.take("the other share gets units before the commit", |next| {
            let units = mover.got.iter().sum::<i8>();
            if let Some(hash) = &mut next.redis[to].hash {
                hash.total += units;
                hash.stock += units;
            }
            next.movers[index].stage = Stage::Given;
            true
        });
    }
    if state.is_locked() {
        return;
    }
    if !may_commit(state, scope, &mover) {
        return steps.take("a commit is refused", |next| {
            next.movers[index] = Mover::default();
            true
        });
    }
    if scope.opens {
        return steps.take("a move opens its transaction", |next| {
            next.movers[index].stage = Stage::Open;
            true
        });
    }
    steps.take("a move is committed", |next| {
        write(next, index);
        true
    });
}

/// The writes of a move, or of a lowering: an edit raises the version of every share.
fn write(next: &mut State, index: usize) {
    let mover = std::mem::take(&mut next.movers[index]);
    let to = SHARES - 1 - usize::from(mover.from);
    for p in 0..SHARES {
        let share = &mut next.postgres.rows[p].share;
        let arrived = if mover.lowers == 0 && p == to { mover.got[1 - p] } else { 0 };
        share.total += arrived - mover.got[p];
        share.stock += arrived - mover.got[p];
        share.version += 1;
    }
    next.postgres.whole -= mover.lowers;
}

fn lower(state: &State, scope: &Scope, index: usize, steps: &mut Steps) {
    let mover = state.movers[index];
    let got = mover.got.iter().sum::<i8>();
    if got < mover.lowers && usize::from(mover.from) + 1 < SHARES {
        steps.take("a lowering asks the next share", |next| {
            let mine = &mut next.movers[index];
            mine.from += 1;
            mine.units = mover.lowers - got;
            mine.stage = Stage::Sent;
            true
        });
    } else if got == mover.lowers {
        commit(state, scope, index, steps);
    } else if !state.is_locked() && !state.postgres.is_lost() {
        steps.take("a lowering is refused", |next| {
            next.movers[index] = Mover::default();
            for (p, rows) in next.postgres.rows.iter_mut().enumerate() {
                rows.share.version += u8::from(mover.got[p] > 0 && rows.share.version == mover.versions[p]);
            }
            true
        });
    }
}

/// Ends a take that was not committed: with a new version the publication gives the units back.
fn cancel(state: &State, scope: &Scope, p: usize, steps: &mut Steps) {
    let version = state.postgres.rows[p].share.version;
    if !scope.has(Rule::CancelInPostgres) {
        let is_noted = state.redis[p].hash.is_some_and(|hash| hash.taken_for == hash.version + 1);
        if is_noted && state.is_up(p) {
            steps.take("a take is cancelled", |next| {
                if let Some(hash) = &mut next.redis[p].hash {
                    hash.total += hash.taken;
                    hash.stock += hash.taken;
                    (hash.taken, hash.taken_for) = (0, 0);
                }
                true
            });
        }
        return;
    }
    let is_of_this = |mover: &Mover| {
        let asked =
            if mover.lowers > 0 { p <= usize::from(mover.from) } else { p == usize::from(mover.from) };
        asked && mover.stage != Stage::Idle && mover.versions[p] == version
    };
    let is_noted = state.redis[p].hash.is_some_and(|hash| hash.taken_for == version + 1);
    let is_taken = is_noted || state.movers.iter().any(is_of_this);
    if is_taken && !state.is_locked() && !state.postgres.is_lost() {
        steps.take("a take is cancelled", |next| {
            next.postgres.rows[p].share.version += 1;
            true
        });
    }
}
