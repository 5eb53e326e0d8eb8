//! The life of orders after their recording: every answer to a confirm, a cancel and a revocation fits what the order is at
//! the end, `reserved_until` alone decides, and a user never holds more than the limit.

use std::collections::{BTreeMap, BTreeSet};

use super::evidence::{Accepted, Evidence};
use crate::history::{Asked, Claim, Class, Loses, Plan, Transition, Wish};
use crate::stores::OrderRow;

/// Largest difference between the clocks of Postgres and the history, which run on one machine.
const CLOCKS_APART_US: u64 = 20_000;

/// What the answer to a transition says that the order is for ever, except that a confirmed order can be revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Confirmed,
    Cancelled,
    Revoked,
    Expired,
    /// Nothing for ever.
    Other,
}

/// A transition that was answered 200 or 409 tells the truth for ever, and a refund is due only after the deadline.
pub fn answers(evidence: &Evidence<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for transition in &evidence.history.transitions {
        let Transition { order, asked, answer, refund_due, .. } = transition;
        let is_too_late = *asked == Asked::Confirm && answer == "409 order-expired";
        if *refund_due != is_too_late {
            broken
                .push(format!("order {order}: {asked:?} was answered {answer} with refund_due {refund_due}"));
        }
        if transition.class == Class::Unknown {
            continue;
        }
        let Some(row) = evidence.rows.get(order.as_str()) else {
            if answer != "404 not-found" {
                broken.push(format!("order {order}: {asked:?} was answered {answer}, but it has no row"));
            }
            continue;
        };
        if answer.starts_with("404") {
            if knew_of(evidence, transition) {
                broken.push(format!(
                    "order {order}: {asked:?} was answered {answer}, but it is {}",
                    row.status
                ));
            }
            continue;
        }
        let Some(told) = told(*asked, answer) else {
            broken.push(format!("order {order}: {asked:?} was answered {answer}"));
            continue;
        };
        let is_revoked = row.status == "cancelled" && row.reason.is_some();
        let is_true = match told {
            Told::Confirmed => row.status == "confirmed" || is_revoked,
            Told::Cancelled => row.status == "cancelled",
            Told::Revoked => is_revoked,
            Told::Expired => row.status == "expired",
            Told::Other => true,
        };
        if !is_true {
            broken.push(format!(
                "order {order}: {asked:?} was answered {answer}, and at the end the order is {} ({:?})",
                row.status, row.reason
            ));
        }
    }
    broken
}

/// `None` for an answer that no such request gets.
fn told(asked: Asked, answer: &str) -> Option<Told> {
    Some(match (asked, answer) {
        (Asked::Confirm, "200") | (Asked::Cancel, "409 order-confirmed") => Told::Confirmed,
        (Asked::Cancel, "200") | (_, "409 order-cancelled") => Told::Cancelled,
        (Asked::Revoke | Asked::Withdraw, "200") => Told::Revoked,
        (_, "409 order-expired") => Told::Expired,
        (Asked::Revoke | Asked::Withdraw, "409 order-reserved") | (_, "409 rejected") => Told::Other,
        _ => return None,
    })
}

/// Whether the order was accepted before the request, and its event was not lost in between.
fn knew_of(evidence: &Evidence<'_>, transition: &Transition) -> bool {
    evidence.accepted.get(transition.order.as_str()).is_some_and(|accepted| {
        accepted.first.ended_us < transition.span.began_us
            && !evidence.may_be_lost(accepted.first, Loses::Claims)
    })
}

/// Every row has one end, at the right time and with a request for it.
pub fn rows(evidence: &Evidence<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for row in &evidence.last.orders {
        let Some(plan) = evidence.plan(&row.coupon) else { continue };
        if let Some(why) = wrong_life(row, plan, evidence) {
            broken.push(format!("order {} of {} ({}), {}, {why}", row.id, row.user, row.coupon, row.status));
        }
    }
    broken
}

fn wrong_life(row: &OrderRow, plan: &Plan, evidence: &Evidence<'_>) -> Option<String> {
    if row.status == "rejected" {
        return None;
    }
    let is_asked = |asked| evidence.asked.contains(&(row.id.as_str(), asked));
    let until = plan.reserve_seconds.map(|seconds| row.recorded_at_us + seconds * 1_000_000);
    if row.reserved_until_us != until {
        return Some(format!("is reserved until {:?}, not {until:?}", row.reserved_until_us));
    }
    if let (Some(confirmed), Some(until)) = (row.confirmed_at_us, until)
        && confirmed >= until
    {
        return Some(format!("was confirmed at {confirmed}, after {until}"));
    }
    let is_confirmed = row.confirmed_at_us.is_some();
    if is_confirmed && !is_asked(Asked::Confirm) {
        return Some("was confirmed without a request".to_owned());
    }
    match row.status.as_str() {
        "confirmed" if until.is_some() && !is_confirmed => Some("has no time of its confirm".to_owned()),
        "expired" if is_confirmed => Some("was confirmed before".to_owned()),
        "expired" if until.is_none() || row.ended_at_us < until => {
            Some(format!("ended at {:?}, before {until:?}", row.ended_at_us))
        }
        "cancelled" => wrong_cancellation(row, until, evidence),
        _ => None,
    }
}

fn wrong_cancellation(row: &OrderRow, until: Option<u64>, evidence: &Evidence<'_>) -> Option<String> {
    let is_asked = |asked| evidence.asked.contains(&(row.id.as_str(), asked));
    if let Some(reason) = row.reason.as_deref() {
        let mut revocations = [Asked::Revoke, Asked::Withdraw].into_iter();
        return if !revocations.any(|asked| asked.reason() == Some(reason) && is_asked(asked)) {
            Some(format!("has a reason that no request gave: {reason}"))
        } else if until.is_some() && row.confirmed_at_us.is_none() {
            Some("was revoked, but never confirmed".to_owned())
        } else {
            None
        };
    }
    if evidence.cancelled.contains(row.id.as_str()) {
        return None;
    }
    if row.confirmed_at_us.is_some() {
        return Some("was confirmed before".to_owned());
    }
    (until.is_none() || row.ended_at_us >= until)
        .then(|| format!("ended at {:?}, not before {until:?}", row.ended_at_us))
}

/// Of each coupon, user and key: the next order is accepted only after the one before has ended, and no answer names the
/// one before again.
pub fn successors(evidence: &Evidence<'_>) -> Vec<String> {
    let mut orders: BTreeMap<_, Vec<(&str, &Accepted<'_>)>> = BTreeMap::new();
    for (order, accepted) in &evidence.accepted {
        orders.entry((accepted.coupon, accepted.user, accepted.key)).or_default().push((order, accepted));
    }
    let mut last_named: BTreeMap<&str, u64> = BTreeMap::new();
    for claim in &evidence.history.claims {
        if let Some(order) = claim.order.as_deref() {
            let began_us = last_named.entry(order).or_default();
            *began_us = claim.span.began_us.max(*began_us);
        }
    }
    let mut broken = Vec::new();
    for ((coupon, user, _), orders) in orders {
        let with_row =
            orders.iter().filter_map(|(order, accepted)| Some((evidence.rows.get(order)?, *accepted)));
        let mut orders: Vec<_> = with_row.collect();
        orders.sort_by_key(|(row, _)| row.claimed_at_ms);
        for pair in orders.windows(2) {
            let [(before, earlier), (after, later)] = pair else { continue };
            if evidence.may_be_lost(earlier.first, Loses::Claims) {
                continue;
            }
            // The order of the ids is that in which the claims arrived, not that in which they were made.
            let why = succeeds(before, later, &last_named);
            if let Some(why) = why.filter(|_| succeeds(after, earlier, &last_named).is_some()) {
                broken.push(format!("{user} was answered with order {} of {coupon}, {why}", after.id));
            }
        }
    }
    broken
}

/// No claim is answered with an order that had ended, or whose time to pay was over, before the claim was sent.
pub fn dead_answers(evidence: &Evidence<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    let is_answered = |claim: &&Claim| matches!(claim.class, Class::Ok | Class::Dup);
    for claim in evidence.history.claims.iter().filter(is_answered) {
        let row = claim.order.as_deref().and_then(|order| evidence.rows.get(order));
        let Some(row) = row.filter(|row| row.reserved_until_us.is_some()) else { continue };
        let until = if row.confirmed_at_us.is_none() { row.reserved_until_us } else { None };
        let Some(dead) = row.ended_at_us.into_iter().chain(until).min() else { continue };
        if claim.span.began_us > dead + CLOCKS_APART_US {
            let after_ms = (claim.span.began_us - dead) / 1_000;
            broken.push(format!(
                "{} was answered {} with order {} of {}, {after_ms} ms after its end",
                claim.user, claim.answer, row.id, row.coupon
            ));
        }
    }
    broken
}

/// Why an order cannot have been made after the order before it; `None` if it can.
fn succeeds(before: &OrderRow, later: &Accepted<'_>, last_named: &BTreeMap<&str, u64>) -> Option<String> {
    let answered_us = later.first.ended_us;
    if before.is_live() || before.ended_at_us > Some(answered_us) {
        return Some(format!("while order {} was live", before.id));
    }
    let is_again = last_named.get(before.id.as_str()) > Some(&answered_us);
    is_again.then(|| format!("and then with order {} again", before.id))
}

/// No user holds more than the limit, each unit has a slot of its own, a refusal at the limit has its orders, and a claim of
/// a coupon with durability `postgres` is answered with a recorded order.
pub fn limits(evidence: &Evidence<'_>) -> Vec<String> {
    let mut slots: BTreeMap<(&str, &str), Vec<i64>> = BTreeMap::new();
    for row in evidence.last.orders.iter().filter(|row| row.is_live()) {
        slots.entry((&row.coupon, &row.user)).or_default().push(row.slot);
    }
    let mut broken = Vec::new();
    for ((coupon, user), mut slots) in slots {
        slots.sort_unstable();
        let Some(plan) = evidence.plan(coupon) else { continue };
        let distinct: BTreeSet<i64> =
            slots.iter().copied().filter(|slot| (1..=plan.limit).contains(slot)).collect();
        if distinct.len() < slots.len() {
            broken.push(format!(
                "{user} holds the slots {slots:?} of {coupon}, with a limit of {}",
                plan.limit
            ));
        }
    }
    for claim in &evidence.history.claims {
        let Some(plan) = evidence.plan(&claim.coupon) else { continue };
        if claim.answer == "409 limit-reached" {
            let others = evidence.history.claims.iter().filter(|other| {
                (&other.coupon, &other.user) == (&claim.coupon, &claim.user)
                    && matches!(other.class, Class::Ok | Class::Dup | Class::Unknown)
                    && other.span.began_us <= claim.span.ended_us
            });
            let joins = evidence.history.waits.iter().filter(|other| {
                (&other.coupon, &other.user) == (&claim.coupon, &claim.user)
                    && other.wish == Wish::Join
                    && other.class != Class::Refused
                    && other.span.began_us <= claim.span.ended_us
            });
            let keys = others.map(|other| &other.key).chain(joins.map(|join| &join.key));
            let keys: BTreeSet<_> = keys.filter(|key| **key != claim.key).collect();
            if i64::try_from(keys.len()).unwrap_or(i64::MAX) < plan.limit {
                broken.push(format!(
                    "{} was refused at the limit of {} after claims with {} other keys",
                    claim.user,
                    claim.coupon,
                    keys.len()
                ));
            }
        }
        let is_answered = matches!(claim.class, Class::Ok | Class::Dup);
        if plan.is_durable && is_answered && claim.status.as_deref() == Some("accepted") {
            let (user, coupon) = (&claim.user, &claim.coupon);
            broken.push(format!("{user} was answered before the order of {coupon} was in Postgres"));
        }
    }
    broken
}
