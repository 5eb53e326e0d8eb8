//! The state of both stores: never a unit too many during the run, and full agreement at its end.

use std::collections::{BTreeMap, BTreeSet};

use super::evidence::{Evidence, loses_claims};
use super::orders::withdrawals;
use crate::history::{Asked, Class, History, Loses, Poison, Sample, Spared};
use crate::stores::OrderRow;

/// In every sample: no unit too many, no user with two live orders, and Postgres's stock + live orders = total.
pub fn samples(history: &History) -> Vec<String> {
    let lowered: BTreeSet<&str> = history
        .edits
        .iter()
        .filter(|edit| edit.lowers && edit.class != Class::Refused)
        .map(|edit| edit.coupon.as_str())
        .collect();
    let withdrawals: BTreeMap<&str, i64> =
        history.coupons.keys().map(|coupon| (coupon.as_str(), withdrawals(history, coupon))).collect();
    let loses_claims = loses_claims(history);
    let mut broken = Vec::new();
    for Sample { span, postgres, redis } in &history.samples {
        let at = span.began_us;
        for coupon in postgres.iter().flatten() {
            let (id, total, live) = (&coupon.id, coupon.total, coupon.live);
            if live > total {
                broken.push(format!("{id} had {live} live orders of {total} units at {at}"));
            }
            if coupon.stock + live != total {
                broken.push(format!(
                    "Postgres had {} of {id} in stock with {live} live orders of {total} at {at}",
                    coupon.stock
                ));
            }
            if coupon.doubled > 0 {
                broken.push(format!("{} users had two live orders of {id} at {at}", coupon.doubled));
            }
            if let Some(plan) = history.coupons.get(id).filter(|plan| coupon.most > plan.limit) {
                broken.push(format!(
                    "a user had {} live orders of {id}, not {}, at {at}",
                    coupon.most, plan.limit
                ));
            }
        }
        // After a loss of claims or a lowered total, Redis may hold more claims than can be recorded.
        let Some(redis) = redis.as_ref().filter(|redis| redis.marker.starts_with("ready:")) else { continue };
        for coupon in redis.coupons.iter().filter(|coupon| !lowered.contains(coupon.id.as_str())) {
            // A unit that is withdrawn is held until Redis has the lower total.
            let withdrawn = withdrawals.get(coupon.id.as_str()).copied().unwrap_or_default();
            if coupon.total.is_some_and(|total| coupon.held > total + withdrawn) && !loses_claims {
                broken.push(format!("Redis held {} claims of {} at {at}", coupon.held, coupon.id));
            }
        }
    }
    broken
}

/// Redis stock = Postgres stock = total − live orders, the claims hash has exactly the live orders, and no work is
/// left.
pub fn agreement(evidence: &Evidence<'_>) -> Vec<String> {
    let last = evidence.last;
    let mut broken = Vec::new();
    if !last.redis.marker.starts_with("ready:") {
        broken.push(format!("claims are not accepted at the end: the marker is {:?}", last.redis.marker));
    }
    if last.redis.pending != 0 || last.redis.unread != 0 || last.outbox != 0 {
        broken.push(format!(
            "work is left at the end: {} events pending, {} unread, {} units in the outbox",
            last.redis.pending, last.redis.unread, last.outbox
        ));
    }
    for row in last.orders.iter().filter(|row| row.status == "reserved") {
        broken
            .push(format!("order {} of {} ({}) is still reserved at the end", row.id, row.user, row.coupon));
    }
    let mut live: BTreeMap<&str, Vec<&OrderRow>> = BTreeMap::new();
    for row in last.orders.iter().filter(|row| row.is_live()) {
        live.entry(&row.coupon).or_default().push(row);
    }
    for (coupon, plan) in &evidence.history.coupons {
        let live = live.remove(coupon.as_str()).unwrap_or_default();
        let units = i64::try_from(live.len()).unwrap_or(i64::MAX);
        let postgres = last.coupons.iter().find(|row| row.id == *coupon);
        let redis = last.redis.coupons.iter().find(|hash| hash.id == *coupon);
        let (Some(postgres), Some(redis)) = (postgres, redis) else {
            broken.push(format!("{coupon} is not in both stores"));
            continue;
        };
        let left = postgres.total - units;
        if (postgres.stock, redis.total, redis.stock) != (left, Some(postgres.total), Some(left)) {
            broken.push(format!(
                "{coupon}: {units} live orders of {} leave {left}, Postgres has {}, Redis {:?} of {:?}",
                postgres.total, postgres.stock, redis.stock, redis.total
            ));
        }
        let none = BTreeMap::new();
        let held = last.claims.get(coupon).unwrap_or(&none);
        let live: BTreeMap<String, String> = live.iter().map(|row| row.claim(plan.limit)).collect();
        for (user, order) in held.iter().filter(|(user, order)| live.get(*user) != Some(*order)) {
            broken.push(format!("Redis holds order {order} of {user} ({coupon}), which is not live"));
        }
        for (user, order) in live.iter().filter(|(user, _)| !held.contains_key(*user)) {
            broken.push(format!("Redis does not hold order {order} of {user} ({coupon}), which is live"));
        }
    }
    broken
}

/// Over all partitions: what they hold and what they have in stock is the coupon's total in Postgres, and no claim is
/// held twice.
pub fn ledger(evidence: &Evidence<'_>) -> Vec<String> {
    let last = evidence.last;
    let mut broken = Vec::new();
    for postgres in &last.coupons {
        let Some(redis) = last.redis.coupons.iter().find(|hash| hash.id == postgres.id) else { continue };
        let units = redis.stock.unwrap_or_default() + redis.held;
        if units != postgres.total {
            broken.push(format!(
                "{}: all partitions together have {units} units, not {}",
                postgres.id, postgres.total
            ));
        }
        let fields = last.claims.get(&postgres.id).map_or(0, BTreeMap::len);
        if i64::try_from(fields) != Ok(redis.held) {
            broken.push(format!("{}: {} claims are held for {fields} users", postgres.id, redis.held));
        }
    }
    broken
}

/// While servers of other partitions were away, claims of the spared coupons were answered as often as before, except a
/// fifth. It counts answers of those that were offered: a slow machine offers fewer.
pub fn spared(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    for fault in &history.faults {
        let Some(Spared { span, coupons }) = &fault.spares else { continue };
        let share = |from: u64, to: u64| {
            let offered = history.claims.iter().filter(|claim| {
                coupons.contains(&claim.coupon) && from <= claim.span.began_us && claim.span.began_us <= to
            });
            let answers: Vec<bool> = offered.map(|claim| claim.class != Class::Unknown).collect();
            (answers.iter().filter(|is_answered| **is_answered).count(), answers.len())
        };
        let length = span.ended_us - span.began_us;
        let (answered, offered) = share(span.began_us, span.ended_us);
        let (answered_before, offered_before) =
            share(span.began_us.saturating_sub(length), span.began_us - 1);
        // answered / offered < 0.8 · answered_before / offered_before
        if offered_before > 0 && 5 * answered * offered_before < 4 * answered_before * offered {
            broken.push(format!(
                "{} at {}: {answered} of {offered} claims of other partitions were answered, \
                 {answered_before} of {offered_before} before",
                fault.kind, span.began_us
            ));
        }
    }
    broken
}

/// Each withdrawn unit has lowered the total by one, and nothing else has changed it, except edits.
pub fn totals(evidence: &Evidence<'_>) -> Vec<String> {
    let is_edited = |coupon: &str| evidence.history.edits.iter().any(|edit| edit.coupon == coupon);
    let mut broken = Vec::new();
    for (coupon, plan) in evidence.history.coupons.iter().filter(|(coupon, _)| !is_edited(coupon)) {
        let is_withdrawn =
            |row: &&OrderRow| row.coupon == *coupon && row.reason.as_deref() == Asked::Withdraw.reason();
        let withdrawn = evidence.last.orders.iter().filter(is_withdrawn).count();
        let total = plan.total - i64::try_from(withdrawn).unwrap_or(i64::MAX);
        if let Some(row) = evidence.last.coupons.iter().find(|row| row.id == *coupon && row.total != total) {
            broken.push(format!(
                "{coupon} has a total of {}, but {withdrawn} of {} units were withdrawn",
                row.total, plan.total
            ));
        }
    }
    broken
}

/// Every rejected order has a dead letter with the reason.
pub fn rejections(evidence: &Evidence<'_>) -> Vec<String> {
    let rejected = evidence.last.orders.iter().filter(|row| row.status == "rejected");
    rejected
        .filter(|row| !evidence.with_letter.contains(row.id.as_str()))
        .map(|row| format!("order {} of {} was rejected without a dead letter", row.id, row.user))
        .collect()
}

/// Every event that the test added has a dead letter, and every other dead letter has a cause.
pub fn dead_letters(evidence: &Evidence<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    let entries: BTreeSet<&str> =
        evidence.last.letters.iter().filter_map(|letter| letter.entry.as_deref()).collect();
    let is_dead = |poison: &Poison| {
        let by_order = poison.order.as_deref().is_some_and(|order| evidence.with_letter.contains(order));
        by_order || poison.entry.as_deref().is_some_and(|entry| entries.contains(entry))
    };
    for poison in evidence.history.poisons.iter().filter(|poison| !is_dead(poison)) {
        if let Some(entry) = &poison.entry
            && !evidence.may_be_lost(poison.span, Loses::Events)
        {
            broken.push(format!("entry {entry}, added by the test ({}), has no dead letter", poison.kind));
        }
    }
    // An entry whose id the test does not know, because Redis gave no answer, may have a dead letter too.
    let mut unknown =
        evidence.history.poisons.iter().filter(|p| p.entry.is_none() && p.order.is_none()).count();
    let added: BTreeSet<&str> =
        evidence.history.poisons.iter().filter_map(|poison| poison.entry.as_deref()).collect();
    for letter in &evidence.last.letters {
        let order = letter.order.as_deref().unwrap_or_default();
        let is_added = letter.entry.as_deref().is_some_and(|entry| added.contains(entry));
        if is_added || letter.is_hoarded || evidence.added.contains(order) {
            continue;
        }
        let row = evidence.rows.get(order);
        let has_cause = row.is_some_and(|row| {
            row.status == "rejected"
                && (evidence.lowered.contains(row.coupon.as_str()) || evidence.loses_claims())
        });
        if has_cause {
            continue;
        }
        if letter.order.is_none() && unknown > 0 {
            unknown -= 1;
            continue;
        }
        broken.push(format!(
            "dead letter {} of entry {:?}, order {order:?}, has no cause: {}",
            letter.id, letter.entry, letter.error
        ));
    }
    broken
}
