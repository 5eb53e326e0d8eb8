//! The comparison beside live claims (`reconcile`), and the check of each coupon's `stock + claims = total`.

use crate::serve::note_loss;
use crate::state::{
    Comparison, Epoch, Marker, Orders, State, Status, ToCompare, bit, counter, each, user_of,
};
use crate::steps::Steps;
use crate::{Rule, Scope, postgres_loss, rebuild};

pub fn steps(state: &State, scope: &Scope, steps: &mut Steps) {
    // Redis would refuse its scripts: the comparison must start again.
    if state.comparison.epoch().is_some_and(|epoch| state.server.session != Some(epoch)) {
        return steps.take("a comparison is abandoned", |next| {
            give_up(next);
            true
        });
    }
    let Some(session) = state.server.session else { return };
    if scope.has(Rule::Sum) && !state.redis.is_consistent() {
        steps.take("an inconsistent coupon is found", |next| {
            note_loss(next, session, false);
            true
        });
    }
    if scope.compares && postgres_loss::has_newer_definition(&state.redis, &state.postgres, scope) {
        steps.take("a comparison finds a newer definition", |next| {
            note_loss(next, session, true);
            true
        });
    }
    if scope.compares {
        compare(state, scope, session, steps);
    }
}

/// An abandoned comparison counts as not done.
pub fn give_up(next: &mut State) {
    next.comparison = Comparison::Idle;
    if next.users.to_compare == ToCompare::UnderWay {
        next.users.to_compare = ToCompare::Yes;
    }
}

fn compare(state: &State, scope: &Scope, session: u8, steps: &mut Steps) {
    let writes_stock = writes_stock(scope, session);
    match state.comparison {
        Comparison::Idle if state.users.to_compare == ToCompare::Yes || writes_stock => {
            let held = state.redis.claims.iter().flatten().fold(0, |set, &order| set | bit(order));
            steps.take("a comparison reads the claims", |next| {
                next.comparison = Comparison::ClaimsRead(session, held);
                next.users.to_compare = ToCompare::UnderWay;
                true
            });
        }
        Comparison::Idle => {}
        Comparison::ClaimsRead(epoch, held) => {
            let events = state.redis.stream.map_or(0, |stream| stream.unacknowledged());
            steps.take("a comparison reads the events", |next| {
                next.comparison = Comparison::EventsRead(epoch, held & !events);
                true
            });
        }
        Comparison::EventsRead(epoch, claims) => {
            let postgres = &state.postgres;
            let with = |which: fn(Status) -> bool| -> Orders {
                each(claims)
                    .filter(|&o| which(postgres.status[usize::from(o)]))
                    .fold(0, |set, o| set | bit(o))
            };
            let lost = with(|status| status == Status::None);
            let dead = with(Status::is_dead) & !postgres.outbox;
            steps.take("a comparison reads Postgres", |next| {
                next.comparison = Comparison::Found(epoch, lost, dead);
                true
            });
        }
        Comparison::Found(epoch, lost, dead) => repair(state, scope, epoch, lost, dead, steps),
        Comparison::LiveRead(epoch, live) => {
            let unheld = each(live).filter(|&o| !state.redis.holds(o)).fold(0, |set, o| set | bit(o));
            steps.take("a comparison reads live orders' claims", |next| {
                next.comparison = Comparison::Unheld(epoch, unheld);
                true
            });
        }
        Comparison::Unheld(epoch, unheld) => {
            let is_live = |order: u8| state.postgres.status[usize::from(order)].is_live();
            let missing = each(unheld).any(is_live);
            steps.take("a comparison ends", |next| {
                next.comparison = Comparison::Idle;
                if next.users.to_compare == ToCompare::UnderWay {
                    next.users.to_compare = ToCompare::No;
                }
                if missing {
                    note_loss(next, epoch, false);
                }
                true
            });
        }
    }
}

/// Bounded, because each wrong stock that a rebuild repairs makes a new epoch.
fn writes_stock(scope: &Scope, epoch: Epoch) -> bool {
    !scope.has(Rule::CompareWritesNoStock) && counter(epoch) < 3
}

fn repair(state: &State, scope: &Scope, epoch: u8, lost: Orders, dead: Orders, steps: &mut Steps) {
    if state.redis.marker != Marker::Ready(epoch) && lost | dead != 0 {
        return steps.take("a comparison is refused", |next| {
            give_up(next);
            true
        });
    }
    if let Some(order) = each(lost).next() {
        return steps.take("an event is requeued", |next| {
            next.comparison = Comparison::Found(epoch, lost & !bit(order), dead);
            let holds = next.redis.holds(order);
            match &mut next.redis.stream {
                Some(stream) if holds => stream.add(order),
                _ => true,
            }
        });
    }
    if let Some(order) = each(dead).next() {
        return steps.take("a missed unit is released", |next| {
            next.comparison = Comparison::Found(epoch, lost, dead & !bit(order));
            if next.redis.is_consistent() && next.redis.holds(order) {
                next.redis.claims[user_of(order)] = None;
                if let Some(coupon) = &mut next.redis.coupon {
                    coupon.stock += 1;
                }
            }
            true
        });
    }
    let live = each(0b1111)
        .filter(|&o| state.postgres.status[usize::from(o)].is_live())
        .fold(0, |set, o| set | bit(o));
    let stock = state.postgres.coupon.stock;
    steps.take("a comparison reads live orders", |next| {
        next.comparison = Comparison::LiveRead(epoch, live);
        if let Some(coupon) = &mut next.redis.coupon
            && writes_stock(scope, epoch)
        {
            coupon.stock = stock;
        }
        true
    });
}

/// Whether a unit is left for the first in line.
fn can_serve(state: &State) -> bool {
    let has_stock = state.redis.coupon.is_some_and(|coupon| coupon.stock > 0 && !coupon.paused);
    has_stock && !state.redis.line.is_empty()
}

/// Whether the sweeper has an order to expire.
fn has_due_order(state: &State) -> bool {
    each(state.due).any(|order| state.postgres.status[usize::from(order)] == Status::Reserved)
}

/// No step is under way: the promises for a quiet system can be checked.
#[must_use]
pub fn is_quiet(state: &State, scope: &Scope) -> bool {
    use crate::state::{Joining, Releasing, Worker};
    let row = &state.postgres.row;
    let server = &state.server;
    server.session == Some(row.epoch)
        && crate::serve::agrees(&state.redis, &state.postgres, scope)
        && server.publishing.is_none()
        && state.postgres.published == state.postgres.coupon.version
        && server.releasing == Releasing::Idle
        && server.transition.is_none()
        && server.sweep.is_none()
        && !has_due_order(state)
        && server.joining == Joining::Idle
        && !can_serve(state)
        && state.postgres.outbox == 0
        && state.workers.iter().all(|worker| *worker == Worker::Idle)
        && rebuild::all_idle(state)
        && state.comparison == Comparison::Idle
        && !(state.users.to_compare != ToCompare::No && scope.compares)
        && state.redis.stream.is_some_and(|stream| stream.is_settled())
        && (!scope.has(Rule::Sum) || state.redis.is_consistent())
        && !postgres_loss::has_newer_definition(&state.redis, &state.postgres, scope)
}
