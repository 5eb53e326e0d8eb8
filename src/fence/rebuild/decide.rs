//! Decides which order each user keeps: step 5 of a rebuild, coupon by coupon, in one transaction.

use std::collections::{HashMap, HashSet};

use anyhow::bail;
use bytes::Bytes;

use super::NEWER;
use crate::domain::{CouponId, OrderEvent, OrderId, UserId};
use crate::postgres::dead_letters::{Letter, LetterOutcome, encode_fields};
use crate::postgres::rebuild::Decision;
use crate::redis::claims_hash::ClaimsHash;

/// The changes that one coupon needs in Redis.
#[derive(Default)]
pub struct Plan {
    /// Fields of the claims hash to delete.
    pub delete: Vec<Bytes>,
    /// Claims to add to the claims hash.
    pub set: Vec<(UserId, OrderId)>,
    /// Kept orders that have neither row nor entry.
    pub resend: Vec<(UserId, OrderId)>,
    /// Units held after the changes are applied.
    pub held: usize,
    /// Claims and events that became rejected orders.
    pub rejected: usize,
    /// Live orders that were cancelled.
    pub cancelled: Vec<OrderId>,
    /// Live orders that Redis did not hold and that may have ended: they stay live.
    pub unheld: Vec<OrderId>,
}

/// How far Redis is believed after Postgres has lost commits.
#[derive(Clone, Copy, Debug)]
pub struct Trust {
    /// Postgres has lost commits; otherwise the other two fields are not used.
    pub after_loss: bool,
    /// The coupon is consistent: if its claims hash and events contradict each other, the hash is right.
    pub is_believed: bool,
    /// Redis cannot be behind Postgres: an order that it does not hold has ended.
    pub may_cancel: bool,
}

/// Keeps, for each user, the live order in Postgres, else the claim without a row, else an event without a row.
///
/// After Postgres has lost commits, Redis is believed: cancels live orders that the claims hash does not hold, then
/// rejects events that it does not hold. If Redis may be behind Postgres, or the coupon is inconsistent, cancels only
/// orders whose user has a newer claim or event: the user could not have made this claim while the order was live.
pub async fn decide_coupon(
    decision: &mut Decision<'_>,
    epoch: &str,
    coupon: &CouponId,
    hash: ClaimsHash,
    events: &[(String, OrderEvent)],
    trust: Trust,
) -> anyhow::Result<Plan> {
    let redis_is_believed = trust.is_believed;
    let mut plan = Plan { delete: hash.foreign_fields.into_iter().collect(), ..Plan::default() };
    // For now no coupon has a limit above 1: claims in higher slots stay as they are.
    plan.held += hash.in_higher_slots.len();
    let LiveOrders { live, claims } =
        live_orders(decision, coupon, hash.claims, events, trust, &mut plan).await?;
    let without_live_order: Vec<OrderId> =
        events.iter().map(|(_, event)| event.order).chain(claims.values().copied()).collect();
    let with_row = decision.recorded(&without_live_order).await?;
    let entries: HashSet<OrderId> = events.iter().map(|(_, event)| event.order).collect();

    let mut kept: HashMap<UserId, OrderId> = HashMap::new();
    for (user, &order) in claims.iter().filter(|(user, _)| !live.contains_key(*user)) {
        if !with_row.contains(&order) {
            kept.insert(user.clone(), order);
        }
    }
    if !redis_is_believed {
        let unrecorded = events.iter().map(|(_, event)| event);
        let unrecorded =
            unrecorded.filter(|event| !live.contains_key(&event.user) && !with_row.contains(&event.order));
        for (user, order) in one_for_each_user(unrecorded, trust.after_loss) {
            kept.entry(user.clone()).or_insert(order);
        }
    }
    plan.rejected = reject_losers(decision, epoch, coupon, &claims, events, &with_row, |user, order| {
        live.get(user).or_else(|| kept.get(user)) == Some(&order)
    })
    .await?;

    plan.held += kept.len();
    let added = kept.iter().filter(|(user, order)| claims.get(*user) != Some(*order));
    plan.set.extend(added.map(|(user, &order)| (user.clone(), order)));
    let ended = claims.keys().filter(|user| !live.contains_key(*user) && !kept.contains_key(*user));
    plan.delete.extend(ended.map(|user| Bytes::copy_from_slice(user.as_str().as_bytes())));
    plan.resend = kept.into_iter().filter(|(_, order)| !entries.contains(order)).collect();
    Ok(plan)
}

/// The order of each user's first event. After a loss of commits, the order of the newest event: it proves that the
/// older orders have ended.
fn one_for_each_user<'e>(
    events: impl Iterator<Item = &'e OrderEvent>,
    after_loss: bool,
) -> HashMap<&'e UserId, OrderId> {
    let mut chosen = HashMap::new();
    for event in events {
        let order = chosen.entry(&event.user).or_insert(event.order);
        if after_loss && is_newer(event.order, *order) {
            *order = event.order;
        }
    }
    chosen
}

/// The users that are not decided yet after every live order was compared with its claim.
struct LiveOrders {
    /// Live orders of users who have another claim or an event.
    live: HashMap<UserId, OrderId>,
    /// Claims that belong to no live order.
    claims: HashMap<UserId, OrderId>,
}

/// Counts the live orders as held and plans claims for live orders without one. Drops each claim as soon as its live
/// order is found: there may be millions.
async fn live_orders(
    decision: &mut Decision<'_>,
    coupon: &CouponId,
    mut claims: HashMap<UserId, OrderId>,
    events: &[(String, OrderEvent)],
    trust: Trust,
    plan: &mut Plan,
) -> anyhow::Result<LiveOrders> {
    let mut of_events: HashMap<&str, Vec<OrderId>> = HashMap::new();
    for (_, event) in events {
        of_events.entry(event.user.as_str()).or_default().push(event.order);
    }
    let mut live = HashMap::new();
    let mut not_held = Vec::new();
    decision
        .visit_live_orders(coupon, |name, order| {
            // A row with an invalid user id, which the API cannot have made: its unit is held in Postgres only.
            let Ok(user) = name.parse::<UserId>() else { return };
            let claim = claims.get(name).copied();
            let is_held = claim == Some(order);
            let has_rival = (claim.is_some() && !is_held) || of_events.contains_key(name);
            if !is_held && (trust.is_believed || trust.after_loss && has_rival) {
                not_held.push((user, order));
                return;
            }
            plan.held += 1;
            if is_held {
                claims.remove(name);
            } else {
                plan.set.push((user.clone(), order));
            }
            if has_rival {
                live.insert(user, order);
            }
        })
        .await?;
    // If the claims hash is consistent, an event whose order it does not hold has ended.
    let rivals_of = |user: &UserId| {
        let events = of_events.get(user.as_str()).filter(|_| !trust.is_believed);
        claims.get(user).into_iter().chain(events.into_iter().flatten()).copied()
    };
    let rivals: Vec<OrderId> = not_held.iter().flat_map(|(user, _)| rivals_of(user)).collect();
    let recorded = decision.recorded(&rivals).await?;
    for (user, order) in not_held {
        let has_newer = rivals_of(&user).any(|rival| !recorded.contains(&rival) && is_newer(rival, order));
        if trust.is_believed && trust.may_cancel || has_newer {
            plan.cancelled.push(order);
        } else {
            plan.held += 1;
            if trust.is_believed {
                plan.unheld.push(order);
            }
            plan.set.push((user.clone(), order));
            live.insert(user, order);
        }
    }
    if !plan.cancelled.is_empty() {
        decision.cancel(coupon, &plan.cancelled).await?;
    }
    Ok(LiveOrders { live, claims })
}

/// Compares the times inside the ids. An id without a time was not made by the API, and is never newer.
fn is_newer(claim: OrderId, order: OrderId) -> bool {
    claim.claimed_at().zip(order.claimed_at()).is_some_and(|(claimed, ordered)| claimed > ordered)
}

/// Rejects claims and events without a row whose user keeps another order.
async fn reject_losers(
    decision: &mut Decision<'_>,
    epoch: &str,
    coupon: &CouponId,
    claims: &HashMap<UserId, OrderId>,
    events: &[(String, OrderEvent)],
    with_row: &HashSet<OrderId>,
    is_kept: impl Fn(&UserId, OrderId) -> bool,
) -> anyhow::Result<usize> {
    let from_claims = claims
        .iter()
        .map(|(user, &order)| (None, OrderEvent { order, coupon: coupon.clone(), user: user.clone() }));
    let from_events = events.iter().map(|(entry, event)| (Some(entry.as_str()), event.clone()));
    let mut seen = HashSet::new();
    // Events first: their dead letters name the entry.
    let losers = from_events
        .chain(from_claims)
        .filter(|(_, event)| !with_row.contains(&event.order) && !is_kept(&event.user, event.order));
    for (entry_id, event) in losers {
        if !seen.insert(event.order) {
            continue;
        }
        let (order, user) = (event.order.to_string(), event.user.as_str());
        let fields = encode_fields(&["order", &order, "coupon", coupon.as_str(), "user", user]);
        let error = "another order of this user was kept when Redis was rebuilt";
        let letter = Letter { entry_id, fields, error, deliveries: None };
        if decision.reject(epoch, &event, &letter).await? == LetterOutcome::Fenced {
            bail!(NEWER);
        }
    }
    Ok(seen.len())
}
