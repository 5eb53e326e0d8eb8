//! Waiting lists: a place that a user was told of leads to its order or is still there, places are served in the order of
//! joining, and no user gets a unit by a claim while others wait.

use std::collections::{BTreeMap, BTreeSet};

use super::evidence::Evidence;
use crate::history::{Asked, Class, Loses, Span, Wait, Wish};
use crate::stores::OrderRow;

/// Largest difference between the clocks of the stores, the program and the history, which run on one machine.
const CLOCKS_APART_US: u64 = 20_000;

/// What the answers said about one place in line; the order that it promises identifies it.
struct Place<'a> {
    order: &'a str,
    coupon: &'a str,
    user: &'a str,
    /// Spans of the answers that told the place, in the order of their ends, with its number.
    told: Vec<(Span, Option<i64>)>,
}

impl Place<'_> {
    fn first(&self) -> Span {
        self.told[0].0
    }

    /// Whether the user waited from the beginning of the span to its end. Lost claims put served users back in line, and a
    /// rebuild those whose request to leave had no answer.
    fn lasted(&self, span: Span, evidence: &Evidence<'_>) -> bool {
        let before = self.told.iter().any(|(told, _)| told.ended_us < span.began_us);
        let after = self.told.iter().any(|(told, _)| told.began_us > span.ended_us) || self.is_kept(evidence);
        before
            && after
            && !evidence.may_be_lost(self.first(), Loses::Claims)
            && !left_after(evidence, self, span.ended_us)
    }

    /// Whether the user is in line at the end.
    fn is_kept(&self, evidence: &Evidence<'_>) -> bool {
        let line = evidence.last.lines.get(self.coupon);
        line.into_iter().flatten().any(|(user, value)| {
            user == self.user
                && value.as_deref().and_then(|value| value.split(' ').next()) == Some(self.order)
        })
    }
}

fn places<'a>(evidence: &Evidence<'a>) -> Vec<Place<'a>> {
    let mut places: BTreeMap<&str, Place<'_>> = BTreeMap::new();
    for wait in evidence.history.waits.iter().filter(|wait| wait.is_waiting()) {
        let Some(order) = wait.order.as_deref() else { continue };
        let (coupon, user) = (&wait.coupon, &wait.user);
        let place = places.entry(order).or_insert(Place { order, coupon, user, told: Vec::new() });
        place.told.push((wait.span, wait.place));
    }
    let mut places: Vec<Place<'_>> = places.into_values().collect();
    for place in &mut places {
        place.told.sort_by_key(|(span, _)| span.ended_us);
    }
    places
}

/// A user who was told a place is in line at the end, got the order of the place, or left.
pub fn kept(evidence: &Evidence<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for place in places(evidence) {
        let Place { order, coupon, user, .. } = place;
        match evidence.rows.get(order) {
            Some(row) if (row.coupon.as_str(), row.user.as_str()) != (coupon, user) => {
                broken.push(format!(
                    "order {order} was promised to {user} ({coupon}) and recorded for {}",
                    row.user
                ));
            }
            Some(row)
                if row.status == "rejected"
                    && !evidence.lowered.contains(coupon)
                    && !evidence.loses_claims() =>
            {
                broken.push(format!("order {order} was promised to {user} ({coupon}) and is rejected"));
            }
            Some(_) => {}
            None if place.is_kept(evidence) || left_after(evidence, &place, u64::MAX) => {}
            None => broken.push(format!("{user} lost the place in the line of {coupon} for order {order}")),
        }
    }
    broken
}

/// Whether the user left, or may have left, since the place was taken and before a moment.
fn left_after(evidence: &Evidence<'_>, place: &Place<'_>, until_us: u64) -> bool {
    evidence.history.waits.iter().any(|wait| {
        (wait.coupon.as_str(), wait.user.as_str()) == (place.coupon, place.user)
            && wait.may_have_left()
            && wait.span.ended_us > place.first().began_us
            && wait.span.began_us <= until_us
    })
}

/// No answer says that a user does not wait who was told a place and has not left it.
pub fn denials(evidence: &Evidence<'_>) -> Vec<String> {
    let places = places(evidence);
    let mut broken = Vec::new();
    for look in evidence.history.waits.iter().filter(|wait| wait.answer == "404 not-waiting") {
        let told = places.iter().find(|place| {
            (place.coupon, place.user) == (look.coupon.as_str(), look.user.as_str())
                && place.first().ended_us < look.span.began_us
                && !left_after(evidence, place, look.span.ended_us)
                && !evidence.may_be_lost(place.first(), Loses::Claims)
        });
        // A later request to join that was not answered may have a row without a place.
        let has_open_join = evidence.history.waits.iter().any(|wait| {
            (&wait.coupon, &wait.user) == (&look.coupon, &look.user)
                && wait.wish == Wish::Join
                && wait.class == Class::Unknown
        });
        if let Some(place) = told.filter(|_| !has_open_join) {
            broken.push(format!(
                "{} was told a place in the line of {} for order {}, and then {}",
                look.user, look.coupon, place.order, look.answer
            ));
        }
    }
    broken
}

/// No user gets a unit by a claim while another user waits.
pub fn claims(evidence: &Evidence<'_>) -> Vec<String> {
    let places = places(evidence);
    let mut broken = Vec::new();
    for claim in evidence.history.claims.iter().filter(|claim| claim.class == Class::Ok) {
        let first = places.iter().find(|place| {
            place.coupon == claim.coupon && place.user != claim.user && place.lasted(claim.span, evidence)
        });
        if let Some(place) = first {
            broken.push(format!(
                "{} claimed order {:?} of {} while {} waited for order {}",
                claim.user, claim.order, claim.coupon, place.user, place.order
            ));
        }
    }
    broken
}

/// How many other users a rebuild may put in front of this place: those whose request to join or to leave had no answer,
/// and who may have a row from before this place.
fn returned_before(evidence: &Evidence<'_>, place: &Place<'_>) -> i64 {
    let open = evidence.history.waits.iter().filter(|wait| {
        wait.coupon == place.coupon
            && wait.user != place.user
            && wait.class == Class::Unknown
            && matches!(wait.wish, Wish::Join | Wish::Leave)
    });
    let users: BTreeSet<&str> = open
        .filter(|wait| wait.wish == Wish::Leave || wait.span.began_us <= place.first().ended_us)
        .map(|wait| wait.user.as_str())
        .collect();
    i64::try_from(users.len()).unwrap_or(i64::MAX)
}

/// A user who joined later is not served earlier, and a place never moves back.
pub fn order(evidence: &Evidence<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    let places = places(evidence);
    let promised: BTreeSet<&str> = places.iter().map(|place| place.order).collect();
    let served: Vec<&OrderRow> =
        evidence.last.orders.iter().filter(|row| promised.contains(row.id.as_str())).collect();
    let stays = |place: &&Place<'_>| {
        !evidence.may_be_lost(place.first(), Loses::Claims) && !left_after(evidence, place, u64::MAX)
    };
    for place in places.iter().filter(stays) {
        for pair in place.told.windows(2) {
            let [(earlier, before), (later, after)] = pair else { continue };
            let back = after.unwrap_or(0) - before.unwrap_or(0);
            let is_forward = earlier.ended_us >= later.began_us || back <= returned_before(evidence, place);
            if !is_forward && !evidence.lost_claims_between(*earlier, *later) {
                broken.push(format!(
                    "the place of {} in the line of {} for order {} moved from {before:?} to {after:?}",
                    place.user, place.coupon, place.order
                ));
            }
        }
        let last_told = place.told.iter().map(|(span, _)| span.began_us).max().unwrap_or(0);
        let until_us = if place.is_kept(evidence) { u64::MAX } else { last_told };
        let is_later = |row: &&&OrderRow| {
            // The time in the id of a promised order is that of joining.
            row.coupon == place.coupon
                && row.claimed_at_ms * 1_000 > place.first().ended_us + CLOCKS_APART_US
                && row.recorded_at_us + CLOCKS_APART_US < until_us
        };
        if let Some(row) = served.iter().find(is_later) {
            broken.push(format!(
                "{} joined the line of {} before {}, who got order {} earlier",
                place.user, place.coupon, row.user, row.id
            ));
        }
    }
    broken
}

/// A request to join by a user who holds a unit is answered with its order, one while units are left is refused, and no
/// answer is of another kind.
pub fn answers(evidence: &Evidence<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for wait in &evidence.history.waits {
        let Wait { coupon, user, wish, answer, .. } = wait;
        let is_known = match wish {
            Wish::Join => matches!(
                answer.as_str(),
                "200" | "201" | "409 not-sold-out" | "409 limit-reached" | "409 waitlist-full"
            ),
            Wish::Look => matches!(answer.as_str(), "200" | "404 not-waiting"),
            Wish::Leave => matches!(answer.as_str(), "204" | "409 already-served"),
        };
        if !is_known && wait.class != Class::Unknown {
            broken.push(format!("{user} asked the line of {coupon} ({wish:?}) and was answered {answer}"));
        }
        let held = wait.order.as_deref().and_then(|order| evidence.rows.get(order));
        if let Some(row) = held.filter(|_| *wish == Wish::Join && !wait.is_waiting())
            && had_ended(evidence, row, wait.span)
        {
            broken.push(format!(
                "{user} joined the line of {coupon} and was answered with order {}, which had ended",
                row.id
            ));
        }
    }
    broken
}

/// Whether the order's time to pay was over, or its end was answered, before a request was sent. The row's `ended_at` is
/// earlier than the commit that ends it.
fn had_ended(evidence: &Evidence<'_>, row: &OrderRow, span: Span) -> bool {
    let until = row.reserved_until_us.filter(|_| row.confirmed_at_us.is_none());
    let history = evidence.history;
    let ends =
        history.transitions.iter().filter(|asked| asked.order == row.id && asked.asked != Asked::Confirm);
    let ends = ends.filter(|asked| asked.class == Class::Ok).map(|asked| asked.span.ended_us);
    let cancels = history.cancels.iter().filter(|cancel| cancel.order == row.id && cancel.class == Class::Ok);
    until.is_some_and(|until| until + CLOCKS_APART_US < span.began_us)
        || ends.chain(cancels.map(|cancel| cancel.span.ended_us)).any(|ended| ended < span.began_us)
}

/// At the end each user in line has an order, and no unit is left for the first of them.
pub fn lines(evidence: &Evidence<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for (coupon, line) in &evidence.last.lines {
        if let Some((user, _)) = line.iter().find(|(_, order)| order.is_none()) {
            broken.push(format!("{user} is in the line of {coupon} without an order"));
        }
        let stock =
            evidence.last.redis.coupons.iter().find(|hash| hash.id == *coupon).and_then(|hash| hash.stock);
        if !line.is_empty() && stock > Some(0) {
            broken
                .push(format!("{} users wait for {coupon} at the end, with {stock:?} in stock", line.len()));
        }
    }
    broken
}
