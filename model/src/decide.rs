//! What a rebuild decides: which user keeps which order, and which definition is in force (`fence/rebuild/decide.rs`).

use crate::state::{
    Coupon, Line, ORDERS, Order, Orders, Rebuilder, State, Status, USERS, bit, each, user_of,
};
use crate::{Rule, Scope, postgres_loss};

/// Records the definition that an ordered rebuild showed to the operator. The operator then knows what is in force,
/// also where both stores are older than the last edit.
pub fn show_definition(next: &mut State, mine: &Rebuilder, is_edited: bool) {
    let version = next.postgres.coupon.version;
    let is_paused = next.postgres.coupon.paused;
    let known = match mine.hash.filter(|_| mine.is_consistent) {
        Some(hash) => version.max(hash.version),
        None if is_edited || is_paused => version,
        None => u8::MAX,
    };
    next.users.in_force = next.users.in_force.min(known);
}

/// The reserved orders.
pub fn reserved(state: &State) -> Orders {
    with_status(state, Status::Reserved)
}

/// The confirmed orders.
pub fn confirmed(state: &State) -> Orders {
    with_status(state, Status::Confirmed)
}

/// The orders that have a row.
pub fn recorded(state: &State) -> Orders {
    !with_status(state, Status::None)
}

fn with_status(state: &State, status: Status) -> Orders {
    let is_it = |order: &Order| state.postgres.status[usize::from(*order)] == status;
    (0..ORDERS as u8).filter(is_it).fold(0, |set, order| set | bit(order))
}

/// The rows of the waiting list after the decision, and the line in Redis.
pub fn lines(state: &State, scope: &Scope, index: usize, plan: &Plan) -> (Line, Line) {
    let mine = &state.rebuilders[index];
    let mut rows = state.postgres.line;
    if mine.postgres_lost && scope.has(Rule::LossAdoptsLine) {
        // A ticket that has a row in `orders` was served.
        let lost = rows;
        rows = mine.line;
        lost.tickets().for_each(|ticket| rows.add(ticket));
    }
    let is_served = |ticket: &Order| {
        plan.rejected & bit(*ticket) != 0
            || (scope.has(Rule::ServedDoNotWait) && state.postgres.has_row(*ticket))
    };
    for ticket in rows.tickets().filter(is_served) {
        rows.remove(ticket);
    }
    let rows = rows.one_for_each_user();
    let mut line = rows;
    for user in (0..USERS).filter(|&user| plan.kept[user].is_some() && scope.has(Rule::HoldersDoNotWait)) {
        if let Some(ticket) = line.of(user) {
            line.remove(ticket);
        }
    }
    (rows, line)
}

/// Whether another slot has a claim or an event that has no row and has the key of this live order.
fn is_replaced(state: &State, mine: &Rebuilder, live: Order) -> bool {
    let in_events = if mine.is_consistent { 0 } else { mine.events };
    let claims = mine.claims.iter().flatten().copied();
    claims
        .chain(each(in_events))
        .any(|other| !state.postgres.has_row(other) && state.users.key_of(other) == state.users.key_of(live))
}

pub struct Plan {
    pub definition: Coupon,
    pub kept: [Option<Order>; USERS],
    pub rejected: Orders,
    pub cancelled: Orders,
    pub resend: Orders,
}

pub fn plan(state: &State, scope: &Scope, index: usize) -> Plan {
    let mine = &state.rebuilders[index];
    let postgres = &state.postgres;
    let mut plan =
        Plan { definition: postgres.coupon, kept: [None; USERS], rejected: 0, cancelled: 0, resend: 0 };
    let is_consistent = mine.postgres_lost && mine.is_consistent;
    let mut live_count = 0;
    let mut events = each(mine.events).collect::<Vec<_>>();
    for user in 0..USERS {
        let mut live = postgres.live(user);
        let from_hash = mine.claims[user].filter(|&order| !postgres.has_row(order));
        let mut unrecorded = events
            .iter()
            .copied()
            .filter(|&order| user_of(order) == user && !postgres.has_row(order) && !is_consistent);
        // After a loss the newest: the user could not have made it while an older order was live.
        let from_events = if mine.postgres_lost { unrecorded.max() } else { unrecorded.next() };
        let may_cancel = mine.may_cancel || !scope.has(Rule::OnlyCurrentRedisCancels);
        // The user could not have made a newer claim while the order was live.
        let has_newer = scope.has(Rule::NewerClaimCancels) && from_hash.max(from_events) > live;
        let has_newer = has_newer
            || (scope.slots
                && scope.has(Rule::SameKeyCancels)
                && live.is_some_and(|live| is_replaced(state, mine, live)));
        if mine.postgres_lost
            && (is_consistent && may_cancel && scope.has(Rule::LossCancels) || has_newer)
            && let Some(order) = live.filter(|&order| mine.claims[user] != Some(order))
        {
            plan.cancelled |= bit(order);
            live = None;
        }
        live_count += i8::from(live.is_some());
        plan.kept[user] = live.or(from_hash).or(from_events);
        if live.is_none()
            && let Some(order) = plan.kept[user].filter(|&order| mine.events & bit(order) == 0)
        {
            plan.resend |= bit(order);
        }
    }
    let held = plan.kept.iter().flatten().count() as i8;
    plan.definition = postgres_loss::definition(mine, postgres, scope, live_count, held);
    events.extend(mine.claims.iter().flatten());
    for order in events {
        if !postgres.has_row(order) && plan.kept[user_of(order)] != Some(order) {
            plan.rejected |= bit(order);
        }
    }
    plan
}
