//! The connections of a rebuild: it stops when one of them has broken, or when another rebuild has set its marker.

use super::stop;
use crate::state::{Marker, Stage, State};
use crate::steps::Steps;
use crate::{Rule, Scope};

/// Runs a script on the rebuild's own connection; the script requires the rebuild's marker and the stream.
pub fn on_redis(
    state: &State,
    scope: &Scope,
    index: usize,
    name: &'static str,
    steps: &mut Steps,
    act: impl Fn(&mut State, usize, &Scope) -> bool,
) {
    let mine = &state.rebuilders[index];
    let is_begin = mine.stage == Stage::EpochWritten;
    let may = !scope.has(Rule::BuildingMarker)
        || is_begin
        || (state.redis.marker == Marker::Building(mine.epoch) && state.redis.stream.is_some());
    let connected = state.redis.run == mine.run;
    steps.take(name, |next| {
        if connected && may {
            act(next, index, scope)
        } else {
            stop(next, index);
            true
        }
    });
}

pub fn read(
    state: &State,
    index: usize,
    name: &'static str,
    steps: &mut Steps,
    act: impl Fn(&mut State, usize),
) {
    let connected = state.redis.run == state.rebuilders[index].run;
    steps.take(name, |next| {
        if connected {
            act(next, index);
        } else {
            stop(next, index);
        }
        true
    });
}

/// Runs a statement on the session that holds the lock.
pub fn on_postgres(
    state: &State,
    _scope: &Scope,
    index: usize,
    name: &'static str,
    steps: &mut Steps,
    act: impl Fn(&mut State, usize),
) {
    let lives = state.rebuilders[index].session_lives;
    steps.take(name, |next| {
        if lives {
            act(next, index);
        } else {
            stop(next, index);
        }
        true
    });
}
