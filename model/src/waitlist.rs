//! The waiting list of a sold-out coupon: users join and leave, and units that come back go to the first in line. Each
//! join mints an order id, its ticket: a place that is served twice is one order.
//!
//! The program gives a unit that comes back to the first in line in the script that returns it. Here these are two steps
//! in any order with all others, which allows more.
//!
//! A flush loses no place that a user was told of (`WaitForgotten`): its row was committed first. Two things may happen
//! after it. A user whose request to join failed, or who left while Postgres did not answer, may be in line: such a
//! request is answered 503, and a repeat settles it. An order that was served and not recorded is lost with its claim,
//! as any claim that only Redis had; its user is in line again, at the old place.

use crate::broken::Broken;
use crate::record::may_write;
use crate::serve::{accept, note_position, passes};
use crate::state::{Joining, Marker, Order, State, USERS, bit, user_of};
use crate::steps::Steps;
use crate::{Rule, Scope};

pub fn steps(state: &State, scope: &Scope, steps: &mut Steps) {
    if !scope.waitlist {
        return;
    }
    match state.server.joining {
        Joining::Idle => {
            (0..USERS).for_each(|user| join(state, scope, user, steps));
            (0..USERS).for_each(|user| leave(state, user, steps));
        }
        Joining::Row(epoch, ticket, position) => take_place(scope, epoch, ticket, position, steps),
        Joining::Unwanted(ticket) => steps.take("a row of the waiting list is deleted", |next| {
            next.server.joining = Joining::Idle;
            next.postgres.line.remove(ticket);
            next.postgres.position += u8::from(next.backup.is_some());
            true
        }),
    }
    serve(state, scope, steps);
}

/// The ticket of the user's next join. User 0 has two and makes no claim, user 1 has one beside a claim.
fn next_ticket(state: &State, scope: &Scope, user: usize) -> Option<Order> {
    let first = 2 * user as u8 + scope.claims[user];
    let tickets = 2 - scope.claims[user];
    let asked = state.users.joins[user];
    (asked < tickets).then(|| if scope.has(Rule::TicketForEachJoin) { first + asked } else { first })
}

/// The row comes first: what Redis loses can be restored from it.
fn join(state: &State, scope: &Scope, user: usize, steps: &mut Steps) {
    let Some(epoch) = state.server.session else { return };
    let Some(ticket) = next_ticket(state, scope, user) else { return };
    if may_write(state, scope, epoch) {
        steps.take("a user asks to join", |next| {
            next.users.joins[user] += 1;
            if scope.has(Rule::JoinCommitsFirst) {
                next.postgres.line.add(ticket);
                next.postgres.position += u8::from(next.backup.is_some());
            }
            next.server.joining = Joining::Row(epoch, ticket, next.postgres.position);
            true
        });
    }
}

fn take_place(scope: &Scope, epoch: u8, ticket: Order, position: u8, steps: &mut Steps) {
    steps.take("a user joins the line", |next| {
        next.server.joining = Joining::Idle;
        if !passes(next, epoch, scope) {
            return true;
        }
        let user = user_of(ticket);
        let stock = next.redis.coupon.map_or(0, |coupon| coupon.stock);
        let has_place = next.redis.line.of(user).is_some_and(|place| place != ticket);
        if has_place || next.redis.claims[user].is_some() || (stock > 0 && next.redis.line.is_empty()) {
            next.server.joining = Joining::Unwanted(ticket);
            return true;
        }
        note_position(next, scope, position);
        next.redis.line.add(ticket);
        next.users.joined |= bit(ticket);
        true
    });
}

/// Redis first: its answer tells whether the user was served before.
fn leave(state: &State, user: usize, steps: &mut Steps) {
    let Some(epoch) = state.server.session else { return };
    if let Some(ticket) = state.redis.line.of(user)
        && state.users.joined & bit(ticket) != 0
        && state.redis.marker == Marker::Ready(epoch)
    {
        steps.take("a user leaves the line", |next| {
            next.redis.line.remove(ticket);
            next.users.joined &= !bit(ticket);
            next.server.joining = Joining::Unwanted(ticket);
            true
        });
    }
}

/// One script: takes the first in line out of it, and claims for this user.
fn serve(state: &State, scope: &Scope, steps: &mut Steps) {
    let (Some(epoch), Some(ticket)) = (state.server.session, state.redis.line.first()) else { return };
    if !state.redis.coupon.is_some_and(|coupon| coupon.stock > 0 && !coupon.paused) {
        return;
    }
    steps.take("the first in line is served", |next| {
        if !passes(next, epoch, scope) {
            return true;
        }
        let Some(coupon) = next.redis.coupon else { return true };
        next.redis.line.remove(ticket);
        if next.redis.claims[user_of(ticket)].is_some() {
            return true;
        }
        if next.postgres.has_row(ticket) {
            next.users.broken = Some(Broken::ServedTwice);
        }
        accept(next, coupon, ticket)
    });
}

/// A place that its user was told is neither in line nor served.
#[must_use]
pub fn is_forgotten(state: &State, ticket: Order) -> bool {
    state.users.joined & bit(ticket) != 0
        && !state.postgres.has_row(ticket)
        && state.redis.line.of(user_of(ticket)).is_none()
}
