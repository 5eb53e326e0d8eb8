//! Faults between any two steps.

use super::state::{Marker, Mover, Rebuilder, Redis, SHARES, Stage, State};
use super::{Fault, Scope, Steps};

pub fn steps(state: &State, scope: &Scope, steps: &mut Steps) {
    if state.faults == 0 {
        copies(state, scope, steps);
    }
    if state.faults >= scope.max_faults {
        return;
    }
    for &fault in scope.faults {
        match fault {
            Fault::FailedOver => {
                let Some((p, replica)) = state.replica else { continue };
                inject(fault, steps, |next| {
                    next.redis[usize::from(p)] = Redis { run: 10 + next.faults, ..replica };
                });
            }
            Fault::Flushed => (0..SHARES).filter(|&p| state.redis[p].marker != Marker::None).for_each(|p| {
                inject(fault, steps, |next| {
                    next.redis[p] = Redis { run: next.redis[p].run, ..Redis::default() };
                });
            }),
            Fault::RebuilderKilled => {
                for p in (0..SHARES).filter(|&p| state.rebuilders[p].stage != Stage::Idle) {
                    inject(fault, steps, |next| {
                        let lost = next.rebuilders[p].lost;
                        for mine in next.rebuilders.iter_mut().filter(|mine| mine.lost && lost) {
                            *mine = Rebuilder::default();
                        }
                        next.rebuilders[p] = Rebuilder::default();
                    });
                }
            }
            Fault::PostgresOlderCopy => {
                let Some(mut copy) = state.backup else { continue };
                copy.rows.iter_mut().for_each(|rows| rows.lost = true);
                inject(fault, steps, |next| {
                    let dead = next.postgres.rows.iter().fold(0, |dead, rows| dead | rows.dead);
                    next.excused |= next.accepted & dead;
                    next.postgres = copy;
                    next.backup = None;
                    next.movers = [Mover::default(); 2];
                    next.recording = [None; SHARES];
                    next.releasing = [None; SHARES];
                    next.rebuilders = [Rebuilder::default(); SHARES];
                });
            }
        }
    }
}

/// A replica or a copy is taken at any moment before the first fault.
fn copies(state: &State, scope: &Scope, steps: &mut Steps) {
    if scope.faults.contains(&Fault::FailedOver) && state.replica.is_none() {
        for p in 0..SHARES {
            steps.take("a replica falls behind", |next| {
                next.replica = Some((p as u8, next.redis[p]));
                true
            });
        }
    }
    if scope.faults.contains(&Fault::PostgresOlderCopy) && state.backup.is_none() {
        steps.take("a copy of Postgres is made", |next| {
            next.backup = Some(next.postgres);
            true
        });
    }
}

fn inject(fault: Fault, steps: &mut Steps, act: impl FnOnce(&mut State)) {
    steps.inject(fault, |next| {
        act(next);
        next.faults += 1;
        // No process can restore an order that no store holds any more.
        let in_redis = next.redis.iter().fold(0, |known, redis| known | redis.held | redis.stream);
        let known = next.postgres.rows.iter().fold(in_redis, |known, rows| known | rows.live | rows.dead);
        next.excused |= next.accepted & !known;
    });
}
