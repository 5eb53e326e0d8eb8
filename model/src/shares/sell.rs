//! What goes on beside moves: claims, their recording, cancelled orders and their units, raised totals, publications.

use super::state::{Hash, Marker, Publication, SHARES, State, bit, each, home};
use super::{Broken, Rule, Scope, Steps};

pub fn steps(state: &State, scope: &Scope, steps: &mut Steps) {
    for p in 0..SHARES {
        claim(state, scope, p, steps);
        record(state, p, steps);
        cancel(state, scope, p, steps);
        release(state, p, steps);
        publish(state, scope, p, steps);
    }
    raise(state, scope, steps);
}

fn claim(state: &State, scope: &Scope, p: usize, steps: &mut Steps) {
    let first = 2 * p as u8;
    let users = first..first + scope.claims[p];
    let Some(order) = users.into_iter().find(|&order| state.accepted & bit(order) == 0) else { return };
    let redis = &state.redis[p];
    let has_stock = redis.hash.is_some_and(|hash| hash.stock > 0);
    if !redis.sells() || !redis.adds_up() || !has_stock {
        return;
    }
    steps.take("a user claims", |next| {
        let redis = &mut next.redis[p];
        redis.held |= bit(order);
        redis.stream |= bit(order);
        if let Some(hash) = &mut redis.hash {
            hash.stock -= 1;
        }
        next.accepted |= bit(order);
        true
    });
}

fn record(state: &State, p: usize, steps: &mut Steps) {
    let rows = &state.postgres.rows[p];
    let recorded = rows.live | rows.dead;
    let redis = &state.redis[p];
    match state.recording[p] {
        None => {
            let Marker::Ready(epoch) = redis.marker else { return };
            for order in each(redis.stream & !recorded) {
                steps.take("an event is read", |next| {
                    next.recording[p] = Some((epoch, order));
                    true
                });
            }
            if epoch == rows.epoch && !rows.lost && redis.stream & recorded != 0 {
                steps.take("events are acknowledged", |next| {
                    next.redis[p].stream &= !recorded;
                    true
                });
            }
        }
        Some((epoch, _)) if epoch != rows.epoch || rows.lost => steps.take("a worker is fenced", |next| {
            next.recording[p] = None;
            true
        }),
        Some((_, order)) if !state.is_locked() => steps.take("an event is recorded", |next| {
            next.recording[p] = None;
            let rows = &mut next.postgres.rows[p];
            if recorded & bit(order) != 0 {
            } else if rows.share.stock > 0 {
                rows.share.stock -= 1;
                rows.live |= bit(order);
            } else {
                rows.dead |= bit(order);
                rows.outbox |= bit(order);
                if next.excused & bit(order) == 0 {
                    next.broken = Some(Broken::Rejected);
                }
            }
            true
        }),
        Some(_) => {}
    }
}

fn cancel(state: &State, scope: &Scope, p: usize, steps: &mut Steps) {
    if state.cancels >= scope.cancels || !state.is_up(p) || state.is_locked() {
        return;
    }
    for order in each(state.postgres.rows[p].live) {
        steps.take("an order is cancelled", |next| {
            let rows = &mut next.postgres.rows[p];
            rows.live &= !bit(order);
            rows.dead |= bit(order);
            rows.outbox |= bit(order);
            rows.share.stock += 1;
            next.cancels += 1;
            true
        });
    }
}

fn release(state: &State, p: usize, steps: &mut Steps) {
    match state.releasing[p] {
        None if state.is_up(p) => {
            for order in each(state.postgres.rows[p].outbox) {
                steps.take("an outbox row is read", |next| {
                    next.releasing[p] = Some((next.postgres.rows[p].epoch, order));
                    true
                });
            }
        }
        None => {}
        Some((epoch, order)) => {
            for is_answered in [true, false] {
                steps.take("a unit is released", |next| {
                    next.releasing[p] = None;
                    let redis = &mut next.redis[p];
                    if redis.marker != Marker::Ready(epoch) || !redis.adds_up() {
                        return true;
                    }
                    if redis.held & bit(order) != 0 {
                        redis.held &= !bit(order);
                        if let Some(hash) = &mut redis.hash {
                            hash.stock += 1;
                        }
                    }
                    if is_answered {
                        next.postgres.rows[home(order)].outbox &= !bit(order);
                    }
                    true
                });
            }
        }
    }
}

/// A share gets the new units. Every share gets a new version, because its hash has the coupon's total.
fn raise(state: &State, scope: &Scope, steps: &mut Steps) {
    let Some(&units) = scope.raises.get(usize::from(state.raises)) else { return };
    if state.is_locked() || state.postgres.is_lost() {
        return;
    }
    for p in 0..SHARES {
        steps.take("the total is raised", |next| {
            next.raises += 1;
            next.postgres.whole += units;
            next.highest = next.highest.max(next.postgres.whole);
            for rows in &mut next.postgres.rows {
                rows.share.version += 1;
            }
            let share = &mut next.postgres.rows[p].share;
            share.total += units;
            share.stock += units;
            true
        });
    }
}

fn publish(state: &State, scope: &Scope, p: usize, steps: &mut Steps) {
    let share = state.postgres.rows[p].share;
    let version = state.redis[p].hash.map_or(0, |hash| hash.version);
    if state.is_up(p) && version < share.version && state.publications[p][0].is_none() {
        steps.take("a share is read", |next| {
            let publication = Publication {
                epoch: next.postgres.rows[p].epoch,
                version: share.version,
                total: share.total,
                whole: next.postgres.whole,
            };
            next.publications[p][0] = Some(publication);
            next.publications[p].sort_unstable();
            true
        });
    }
    for at in 0..state.publications[p].len() {
        let Some(publication) = state.publications[p][at] else { continue };
        for (name, arrives) in [("a share is published", true), ("a publication is lost", false)] {
            steps.take(name, |next| {
                next.publications[p][at] = None;
                next.publications[p].sort_unstable();
                if arrives {
                    publish_script(next, scope, p, publication);
                }
                true
            });
        }
    }
}

fn publish_script(next: &mut State, scope: &Scope, p: usize, publication: Publication) {
    let Publication { epoch, version, total, whole } = publication;
    let redis = &mut next.redis[p];
    if redis.marker != Marker::Ready(epoch) || !redis.adds_up() {
        return;
    }
    let Some(hash) = &mut redis.hash else { return };
    if hash.version >= version {
        return;
    }
    let before = if scope.has(Rule::DifferenceToTheHash) { hash.total } else { hash.total + hash.taken };
    let kept = !scope.has(Rule::PublicationDropsTakes);
    *hash = Hash {
        version,
        total,
        stock: hash.stock + total - before,
        whole,
        taken: if kept { hash.taken } else { 0 },
        taken_for: if kept { hash.taken_for } else { 0 },
    };
}
