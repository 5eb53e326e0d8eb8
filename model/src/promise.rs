//! What must hold: always, and when the system is quiet.

use crate::broken::Broken;
use crate::compare::is_quiet;
use crate::state::{Coupon, ORDERS, State, Status, USERS, each};
use crate::{Rule, Scope, waitlist};

#[must_use]
pub fn broken(state: &State, scope: &Scope) -> Option<Broken> {
    let postgres = &state.postgres;
    let stock = postgres.coupon.total - postgres.live_count();
    if postgres.coupon.stock != stock || stock < 0 {
        return Some(Broken::Oversold);
    }
    if postgres.row.lost && scope.needs_no_operator() {
        return Some(Broken::WaitsInVain);
    }
    if state.users.broken.is_some() {
        return state.users.broken;
    }
    let confirmed = |order| postgres.status[usize::from(order)];
    if each(state.users.confirmed).any(|order| confirmed(order).is_dead()) {
        return Some(Broken::ConfirmLost);
    }
    if !is_quiet(state, scope) {
        return None;
    }
    if each(state.users.confirmed).any(|order| confirmed(order) != Status::Confirmed) {
        return Some(Broken::ConfirmLost);
    }
    let redis = &state.redis;
    let version = redis.coupon.map_or(0, |coupon| coupon.version);
    let of_postgres = Coupon { stock, ..postgres.coupon };
    let must_match_version = scope.has(Rule::PublishRepeats) || version == postgres.coupon.version;
    if redis.coupon != Some(of_postgres) || !must_match_version {
        return Some(Broken::StocksDiffer);
    }
    if (0..USERS).any(|user| redis.claims[user] != postgres.live(user)) {
        return Some(Broken::ClaimsDiffer);
    }
    if (0..ORDERS as u8).any(|ticket| waitlist::is_forgotten(state, ticket)) {
        return Some(Broken::WaitForgotten);
    }
    let users = &state.users;
    each(users.accepted & !users.excused).find_map(|order| match postgres.status[usize::from(order)] {
        Status::None => Some(Broken::Forgotten),
        Status::Rejected if !users.lowered => Some(Broken::Rejected),
        Status::Cancelled if scope.cancels + scope.withdraws == 0 => Some(Broken::Rejected),
        _ => None,
    })
}
