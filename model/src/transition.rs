//! Confirms and ends orders (`orders/transitions`, `orders/expiry`). Each transition is one conditional statement, in a
//! transaction that checks the fence row as a worker's does. A confirm is answered only after its WAL position is in
//! Redis.

use crate::broken::Broken;
use crate::record::may_write;
use crate::serve::{note_loss, note_position};
use crate::state::{Marker, ORDERS, Order, State, Status, Transition, TransitionKind, Withdrawal, bit};
use crate::steps::Steps;
use crate::{Rule, Scope};

pub fn steps(state: &State, scope: &Scope, steps: &mut Steps) {
    begin(state, scope, steps);
    if let Some(transition) = state.server.transition {
        match transition.committed {
            None => commit(state, scope, transition, steps),
            Some(position) => answer(scope, transition.order, position, steps),
        }
    }
    if let Some(transition) = state.server.sweep {
        commit(state, scope, transition, steps);
    }
}

fn begin(state: &State, scope: &Scope, steps: &mut Steps) {
    let Some(epoch) = state.server.session else { return };
    let kinds = [
        (TransitionKind::Confirm, state.confirms < scope.confirms, "a confirm begins"),
        (TransitionKind::End, state.cancels < scope.cancels, "a cancel begins"),
        (TransitionKind::Withdraw, state.withdraws < scope.withdraws, "a withdrawal begins"),
        (TransitionKind::Expire, scope.reserves, "a sweep begins"),
    ];
    for (kind, is_in_scope, name) in kinds {
        let is_free = match kind {
            TransitionKind::Expire => state.server.sweep.is_none(),
            _ => state.server.transition.is_none(),
        };
        for order in
            (0..ORDERS as u8).filter(|&order| is_in_scope && is_free && applies(state, scope, kind, order))
        {
            steps.take(name, |next| {
                let transition = Some(Transition { kind, epoch, order, committed: None });
                match kind {
                    TransitionKind::Expire => next.server.sweep = transition,
                    _ => next.server.transition = transition,
                }
                match kind {
                    TransitionKind::Confirm => next.confirms += 1,
                    TransitionKind::End => next.cancels += 1,
                    TransitionKind::Withdraw => next.withdraws += 1,
                    TransitionKind::Expire => {}
                }
                true
            });
        }
    }
}

/// Whether the statement changes the order.
fn applies(state: &State, scope: &Scope, kind: TransitionKind, order: Order) -> bool {
    let is_due = state.due & bit(order) != 0;
    match (kind, state.postgres.status[usize::from(order)]) {
        (TransitionKind::Confirm, Status::Reserved) => !is_due || !scope.has(Rule::DeadlineDecides),
        // A repeat of a confirm: its answer, too, needs the WAL position of the commit in Redis.
        (TransitionKind::Confirm, Status::Confirmed) => scope.reserves,
        (TransitionKind::End, Status::Reserved) => !is_due,
        // A revocation.
        (TransitionKind::End | TransitionKind::Withdraw, Status::Confirmed) => true,
        (TransitionKind::Expire, Status::Reserved) => is_due,
        _ => false,
    }
}

fn commit(state: &State, scope: &Scope, transition: Transition, steps: &mut Steps) {
    let Transition { kind, epoch, order, .. } = transition;
    // The end of an order changes the stock, so it waits while another transaction locks the coupon's row.
    if kind != TransitionKind::Confirm && state.row_is_locked() {
        return;
    }
    let set = move |next: &mut State, to: Option<Transition>| match kind {
        TransitionKind::Expire => next.server.sweep = to,
        _ => next.server.transition = to,
    };
    if scope.has(Rule::TransitionsAreFenced) && !may_write(state, scope, epoch) {
        let is_older = scope.has(Rule::PostgresIdentity) && state.postgres.position < state.redis.noted;
        return steps.take("a transition is fenced", |next| {
            set(next, None);
            if is_older {
                note_loss(next, epoch, true);
            }
            true
        });
    }
    if scope.has(Rule::TransitionsAreConditional) && !applies(state, scope, kind, order) {
        return steps.take("a transition comes too late", |next| {
            set(next, None);
            true
        });
    }
    let name = match kind {
        TransitionKind::Confirm => "an order is confirmed",
        TransitionKind::End => "an order is cancelled",
        TransitionKind::Withdraw => "an order is revoked and its unit withdrawn",
        TransitionKind::Expire => "an order expires",
    };
    steps.take(name, |next| {
        apply(next, scope, kind, order);
        next.postgres.position += u8::from(next.backup.is_some());
        let position = next.postgres.position;
        let is_answered = kind == TransitionKind::Confirm;
        set(next, is_answered.then_some(Transition { committed: Some(position), ..transition }));
        true
    });
}

fn apply(next: &mut State, scope: &Scope, kind: TransitionKind, order: Order) {
    let postgres = &mut next.postgres;
    let status = &mut postgres.status[usize::from(order)];
    *status = match kind {
        TransitionKind::Confirm => {
            if *status == Status::Reserved && next.due & bit(order) != 0 {
                next.users.broken = Some(Broken::ConfirmedLate);
            }
            Status::Confirmed
        }
        TransitionKind::End | TransitionKind::Withdraw => Status::Cancelled,
        TransitionKind::Expire => Status::Expired,
    };
    match kind {
        TransitionKind::Confirm => return,
        TransitionKind::Withdraw => {
            postgres.coupon.total -= 1;
            postgres.coupon.version += 1;
            postgres.withdrawn = Some(Withdrawal { order, version: postgres.coupon.version });
        }
        TransitionKind::End | TransitionKind::Expire => postgres.coupon.stock += 1,
    }
    if scope.has(Rule::EndsReturnTheUnit) {
        postgres.outbox |= bit(order);
    }
    if kind != TransitionKind::Expire {
        // The admin who revokes an order knows that it ends.
        next.users.confirmed &= !bit(order);
    }
}

/// The client is told that the order is confirmed. Without Redis it gets no answer, and asks again.
fn answer(scope: &Scope, order: Order, position: u8, steps: &mut Steps) {
    steps.take("a confirm is answered", |next| {
        let Some(Transition { epoch, .. }) = next.server.transition.take() else { return true };
        if next.redis.marker == Marker::Ready(epoch) {
            if scope.has(Rule::ConfirmNotesPosition) {
                note_position(next, scope, position);
            }
            next.users.confirmed |= bit(order);
        }
        true
    });
}

/// The time to pay of a reserved order passes, by Postgres's clock.
pub fn pass_time(state: &State, steps: &mut Steps) {
    for order in (0..ORDERS as u8).filter(|&order| state.due & bit(order) == 0) {
        if state.postgres.status[usize::from(order)] == Status::Reserved {
            steps.take("the time to pay passes", |next| {
                next.due |= bit(order);
                true
            });
        }
    }
}
