//! What must hold in the model of shares: always, and when the system is quiet.

use super::Broken;
use super::state::{Hash, Mover, Rebuilder, SHARES, State, count};

pub fn broken(state: &State) -> Option<Broken> {
    if state.broken.is_some() {
        return state.broken;
    }
    let postgres = &state.postgres;
    for (redis, rows) in state.redis.iter().zip(&postgres.rows) {
        let share = rows.share;
        if share.stock != share.total - count(rows.live) || share.stock < 0 {
            return Some(Broken::BelowZero);
        }
        let Some(hash) = redis.hash.filter(|_| redis.sells()) else { continue };
        if !redis.adds_up() {
            return Some(Broken::SumBroken);
        }
        // A claim that a fault had taken from both stores may come back after its unit is gone.
        if hash.stock < 0 && redis.held & state.excused == 0 {
            return Some(Broken::BelowZero);
        }
    }
    let sells = state.redis.iter().any(super::state::Redis::sells);
    let total = postgres.rows.iter().map(|rows| rows.share.total).sum::<i8>();
    if sells && total != postgres.whole {
        return Some(Broken::SharesDoNotAddUp);
    }
    if postgres.whole > state.highest {
        return Some(Broken::Raised);
    }
    let selling = state.redis.iter().filter(|redis| redis.sells());
    let units = selling.filter_map(|redis| redis.hash).map(|hash| hash.total).sum::<i8>();
    let most = if postgres.is_lost() { state.highest } else { postgres.whole };
    if units > most {
        return Some(Broken::TooManyUnits);
    }
    let ended = postgres.rows.iter().fold(0, |ended, rows| ended | rows.live | rows.dead);
    (is_quiet(state) && state.accepted & !state.excused & !ended != 0).then_some(Broken::Forgotten)
}

/// No step is under way, and both stores are equal.
pub fn is_quiet(state: &State) -> bool {
    state.movers.iter().all(|mover| *mover == Mover::default())
        && state.rebuilders.iter().all(|rebuilder| *rebuilder == Rebuilder::default())
        && state.late.is_none()
        && state.publications.iter().flatten().all(Option::is_none)
        && state.recording.iter().chain(&state.releasing).all(Option::is_none)
        && (0..SHARES).all(|p| {
            let (redis, rows) = (&state.redis[p], &state.postgres.rows[p]);
            let hash = Hash {
                version: rows.share.version,
                total: rows.share.total,
                stock: rows.share.stock,
                whole: state.postgres.whole,
                ..Hash::default()
            };
            state.is_up(p)
                && redis.hash == Some(hash)
                && redis.held == rows.live
                && redis.stream == 0
                && rows.outbox == 0
        })
}
