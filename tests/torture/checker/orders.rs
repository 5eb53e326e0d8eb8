//! Claims and the rows they became: nothing accepted is lost, nothing refused happened, no request cost two
//! units, and what an owner was told of an order never went back.

use std::collections::{BTreeMap, HashMap};

use super::evidence::Evidence;
use crate::history::{Claim, Class, History, Loses, Span};
use crate::stores::OrderRow;

/// How far the clocks of program and history may lie apart.
const CLOCKS_APART_US: u64 = 1_000_000;

/// A claim that was answered 200, 201 or 202 is exactly one order, or a rejected one whose owner can see why.
pub fn accepted_claims(evidence: &Evidence<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for (order, told) in &evidence.told {
        let whose = format!("order {order} of {} ({})", told.user, told.coupon);
        let Some(row) = evidence.rows.get(order) else {
            if evidence.recorded.contains(order) || !evidence.may_be_lost(told.first, Loses::Claims) {
                broken.push(format!("{whose} was accepted and is lost"));
            }
            continue;
        };
        if (row.coupon.as_str(), row.user.as_str()) != (told.coupon, told.user) {
            broken.push(format!("{whose} was recorded for {} ({})", row.user, row.coupon));
        }
        let has_ended_rightly = match row.status.as_str() {
            "reserved" | "confirmed" => true,
            "cancelled" => evidence.cancelled.contains(order),
            "rejected" => evidence.lowered.contains(told.coupon) || evidence.loses_claims(),
            _ => false,
        };
        if !has_ended_rightly {
            broken.push(format!("{whose} was accepted and is {} for no reason", row.status));
        }
    }
    broken
}

/// Every row comes from a request of its own: one that was answered with it, or one that was never answered
/// and was sent before the row's claim.
pub fn origins(evidence: &Evidence<'_>) -> Vec<String> {
    let mut rows: BTreeMap<(&str, &str), Vec<&OrderRow>> = BTreeMap::new();
    for row in &evidence.last.orders {
        if !evidence.hand_made.contains(row.id.as_str()) {
            rows.entry((&row.coupon, &row.user)).or_default().push(row);
        }
    }
    let mut claims: HashMap<(&str, &str), Vec<&Claim>> = HashMap::new();
    for claim in &evidence.history.claims {
        claims.entry((&claim.coupon, &claim.user)).or_default().push(claim);
    }
    let mut broken = Vec::new();
    for ((coupon, user), mut rows) in rows {
        let claims = claims.remove(&(coupon, user)).unwrap_or_default();
        let live = rows.iter().filter(|row| row.is_live()).count();
        if live > 1 {
            broken.push(format!("{user} has {live} live orders of {coupon}"));
        }
        let made = |row: &OrderRow| {
            claims.iter().any(|claim| claim.class == Class::Ok && claim.order.as_ref() == Some(&row.id))
        };
        rows.retain(|row| !made(row));
        rows.sort_by_key(|row| row.claimed_at_ms);
        let mut open: Vec<&&Claim> = claims.iter().filter(|claim| claim.class == Class::Unknown).collect();
        let unanswered = open.len();
        for row in rows {
            let latest = row.claimed_at_ms * 1_000 + CLOCKS_APART_US;
            match open.iter().position(|claim| claim.span.began_us <= latest) {
                Some(place) => drop(open.remove(place)),
                None => broken.push(format!(
                    "order {} of {user} ({coupon}), {}, has no request of its own: {} were sent, {unanswered} of them \
                     without an answer",
                    row.id,
                    row.status,
                    claims.len(),
                )),
            }
        }
    }
    broken
}

/// A holder is never refused, and nothing is sold out before it is sold.
pub fn refusals(evidence: &Evidence<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    let mut held: HashMap<(&str, &str), (&str, u64)> = HashMap::new();
    for (order, told) in &evidence.told {
        if evidence.rows.get(order).is_some_and(|row| row.is_live()) {
            held.insert((told.coupon, told.user), (order, told.first.ended_us));
        }
    }
    let is_no = |claim: &&Claim| matches!(claim.class, Class::SoldOut | Class::Refused);
    for claim in evidence.history.claims.iter().filter(is_no) {
        if let Some((order, since)) = held.get(&(claim.coupon.as_str(), claim.user.as_str()))
            && *since < claim.span.began_us
        {
            broken.push(format!("{} holds order {order} and was told {}", claim.user, claim.told));
        }
    }
    for (coupon, &total) in &evidence.history.coupons {
        let edits = evidence.history.edits.iter().filter(|edit| edit.coupon == *coupon);
        let least = edits.map(|edit| edit.total).chain([total]).min().unwrap_or(total);
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

/// What one owner was told when he asked never went back behind what he had been told before. The answer to a
/// claim counts as something told, but not as asking: a repeat says `accepted` where more is not known.
pub fn statuses(history: &History) -> Vec<String> {
    let mut by_order: BTreeMap<&str, Vec<(Span, &str, bool)>> = BTreeMap::new();
    for status in &history.statuses {
        by_order.entry(&status.order).or_default().push((status.span, &status.told, true));
    }
    for claim in &history.claims {
        if let (Some(order), Some(status)) = (&claim.order, &claim.status) {
            by_order.entry(order).or_default().push((claim.span, status, false));
        }
    }
    let mut broken = Vec::new();
    for (order, mut told) in by_order {
        told.sort_by_key(|(span, ..)| span.ended_us);
        let back = told.iter().enumerate().find_map(|(place, (earlier_span, earlier, _))| {
            let later = told[place..].iter().find(|(span, later, is_asked)| {
                let (from, to) = (rank(earlier), rank(later));
                let is_back = to < from || (to == from && later != earlier);
                *is_asked && is_back && span.began_us > earlier_span.ended_us
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
