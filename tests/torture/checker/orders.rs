//! Claims and their rows: no accepted claim is lost, no refused claim has a row, no request took two units, and the
//! status of an order never goes back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::evidence::Evidence;
use crate::history::{Asked, Claim, Class, History, Loses, Span, Wait, Wish};
use crate::stores::OrderRow;

/// Largest difference between the clocks of the program and the history.
const CLOCKS_APART_US: u64 = 1_000_000;

/// Coupon, user and key: at most one unit is held for it.
type Request<'a> = (&'a str, &'a str, Option<&'a str>);

/// A claim that was answered 200, 201 or 202 is exactly one order. It may be rejected only for a known reason.
pub fn accepted_claims(evidence: &Evidence<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for (order, accepted) in &evidence.accepted {
        let whose = format!("order {order} of {} ({})", accepted.user, accepted.coupon);
        let Some(row) = evidence.rows.get(order) else {
            if evidence.recorded.contains(order) || !evidence.may_be_lost(accepted.first, Loses::Claims) {
                broken.push(format!("{whose} was accepted and is lost"));
            }
            continue;
        };
        if (row.coupon.as_str(), row.user.as_str()) != (accepted.coupon, accepted.user) {
            broken.push(format!("{whose} was recorded for {} ({})", row.user, row.coupon));
        }
        let is_as_expected = match row.status.as_str() {
            // `order_life` checks whether the order was confirmed, or was not, at the right time.
            "reserved" | "confirmed" | "expired" => true,
            "cancelled" => {
                let is_asked = |asked| evidence.asked.contains(&(*order, asked));
                evidence.cancelled.contains(order)
                    || [Asked::Cancel, Asked::Revoke, Asked::Withdraw].into_iter().any(is_asked)
            }
            "rejected" => evidence.lowered.contains(accepted.coupon) || evidence.loses_claims(),
            _ => false,
        };
        if !is_as_expected {
            broken.push(format!("{whose} was accepted and is {} for no reason", row.status));
        }
    }
    broken
}

/// Every row has its own request: a claim that was answered with the row's order, a place in line that promised it, or a
/// request without an answer that was sent before the time in the order's id.
pub fn origins(evidence: &Evidence<'_>) -> Vec<String> {
    let mut rows: BTreeMap<Request<'_>, Vec<&OrderRow>> = BTreeMap::new();
    for row in &evidence.last.orders {
        if !evidence.added.contains(row.id.as_str()) {
            rows.entry((&row.coupon, &row.user, row.key.as_deref())).or_default().push(row);
        }
    }
    let mut claims: HashMap<Request<'_>, Vec<&Claim>> = HashMap::new();
    for claim in &evidence.history.claims {
        claims.entry((&claim.coupon, &claim.user, claim.key.as_deref())).or_default().push(claim);
    }
    let mut joins: HashMap<Request<'_>, Vec<&Wait>> = HashMap::new();
    for join in evidence.history.waits.iter().filter(|wait| wait.wish == Wish::Join) {
        joins.entry((&join.coupon, &join.user, join.key.as_deref())).or_default().push(join);
    }
    let promised: HashSet<(&str, &str)> = evidence
        .history
        .waits
        .iter()
        .filter(|wait| wait.is_waiting())
        .filter_map(|wait| Some((wait.user.as_str(), wait.order.as_deref()?)))
        .collect();
    let mut broken = Vec::new();
    for ((coupon, user, key), mut rows) in rows {
        let claims = claims.remove(&(coupon, user, key)).unwrap_or_default();
        let joins = joins.remove(&(coupon, user, key)).unwrap_or_default();
        let live = rows.iter().filter(|row| row.is_live()).count();
        if live > 1 {
            let with_key = key.map(|key| format!(" with key {key}")).unwrap_or_default();
            broken.push(format!("{user} has {live} live orders of {coupon}{with_key}"));
        }
        let made = |row: &OrderRow| {
            claims.iter().any(|claim| claim.class == Class::Ok && claim.order.as_ref() == Some(&row.id))
        };
        rows.retain(|row| !made(row) && !promised.contains(&(user, &row.id)));
        rows.sort_by_key(|row| row.claimed_at_ms);
        let requests = claims.iter().map(|claim| (claim.class, claim.span));
        let requests = requests.chain(joins.iter().map(|join| (join.class, join.span)));
        let sent = requests.clone().count();
        let mut open: Vec<Span> =
            requests.filter(|(class, _)| *class == Class::Unknown).map(|(_, span)| span).collect();
        open.sort_by_key(|span| span.ended_us);
        let unanswered = open.len();
        for row in rows {
            let latest = row.claimed_at_ms * 1_000 + CLOCKS_APART_US;
            match open.iter().position(|span| span.began_us <= latest) {
                Some(place) => drop(open.remove(place)),
                None => broken.push(format!(
                    "order {} of {user} ({coupon}), {}, has no request of its own: {sent} were sent, {unanswered} of \
                     them without an answer",
                    row.id, row.status,
                )),
            }
        }
    }
    broken
}

/// No user who holds a unit is refused, and no coupon is sold out before all its units are claimed.
pub fn refusals(evidence: &Evidence<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    let mut held: HashMap<Request<'_>, (&str, u64)> = HashMap::new();
    for (order, accepted) in &evidence.accepted {
        if evidence.rows.get(order).is_some_and(|row| row.is_live()) {
            held.insert((accepted.coupon, accepted.user, accepted.key), (order, accepted.first.ended_us));
        }
    }
    let is_refusal = |claim: &&Claim| matches!(claim.class, Class::SoldOut | Class::Refused);
    for claim in evidence.history.claims.iter().filter(is_refusal) {
        let request = (claim.coupon.as_str(), claim.user.as_str(), claim.key.as_deref());
        if let Some((order, since)) = held.get(&request)
            && *since < claim.span.began_us
        {
            broken.push(format!("{} holds order {order} and was answered {}", claim.user, claim.answer));
        }
    }
    for (coupon, plan) in &evidence.history.coupons {
        let edits = evidence.history.edits.iter().filter(|edit| edit.coupon == *coupon);
        let least = edits.map(|edit| edit.total).chain([plan.total]).min().unwrap_or(plan.total);
        let least = least - withdrawals(evidence.history, coupon);
        let claims = || evidence.history.claims.iter().filter(|claim| claim.coupon == *coupon);
        let sold_out = claims().filter(|claim| claim.class == Class::SoldOut);
        let Some(first) = sold_out.map(|claim| claim.span.ended_us).min() else { continue };
        let taken = claims()
            .filter(|claim| matches!(claim.class, Class::Ok | Class::Unknown) && claim.span.began_us <= first)
            .count();
        if i64::try_from(taken).unwrap_or(i64::MAX) < least {
            broken.push(format!("{coupon} was sold out after {taken} claims of {least} units"));
        }
    }
    broken
}

/// How many units of the coupon may be withdrawn.
pub fn withdrawals(history: &History, coupon: &str) -> i64 {
    let transitions = history.transitions.iter().filter(|transition| transition.coupon == coupon);
    let withdrawn: BTreeSet<&str> = transitions
        .filter(|transition| transition.asked == Asked::Withdraw && transition.class != Class::Refused)
        .map(|transition| transition.order.as_str())
        .collect();
    i64::try_from(withdrawn.len()).unwrap_or(i64::MAX)
}

/// A status answer, or the answer to a confirm or a cancel that was done, never goes back behind an earlier answer about
/// the same order. The answer to a claim is only an
/// earlier answer, never a later one: a repeated claim is answered `accepted` if the program knows no more.
pub fn statuses(history: &History) -> Vec<String> {
    let mut by_order: BTreeMap<&str, Vec<(Span, &str, bool)>> = BTreeMap::new();
    for status in &history.statuses {
        by_order.entry(&status.order).or_default().push((status.span, &status.status, true));
    }
    for transition in &history.transitions {
        if let Some(status) = &transition.status {
            by_order.entry(&transition.order).or_default().push((transition.span, status, true));
        }
    }
    for claim in &history.claims {
        if let (Some(order), Some(status)) = (&claim.order, &claim.status) {
            by_order.entry(order).or_default().push((claim.span, status, false));
        }
    }
    for wait in history.waits.iter().filter(|wait| !wait.is_waiting()) {
        if let (Some(order), Some(status)) = (&wait.order, &wait.status) {
            by_order.entry(order).or_default().push((wait.span, status, false));
        }
    }
    let mut broken = Vec::new();
    for (order, mut answers) in by_order {
        answers.sort_by_key(|(span, ..)| span.ended_us);
        let back = answers.iter().enumerate().find_map(|(place, (earlier_span, earlier, _))| {
            let later = answers[place..].iter().find(|(span, later, is_status)| {
                let (from, to) = (rank(earlier), rank(later));
                let is_back = to < from || (to == from && later != earlier);
                *is_status && is_back && span.began_us > earlier_span.ended_us
            });
            later.map(|(span, later, _)| (earlier, later, (span.began_us - earlier_span.ended_us) / 1_000))
        });
        if let Some((earlier, later, ms)) = back {
            broken.push(format!("order {order} was {earlier} and then {later}, {ms} ms later"));
        }
    }
    broken
}

fn rank(status: &str) -> u8 {
    match status {
        "accepted" => 0,
        "reserved" => 1,
        "confirmed" => 2,
        _ => 3,
    }
}
