//! Who keeps what: the fifth step of a rebuild, coupon by coupon, inside its one transaction.

use std::collections::{HashMap, HashSet};

use anyhow::bail;
use bytes::Bytes;

use super::NEWER;
use crate::domain::{CouponId, OrderEvent, OrderId, UserId};
use crate::postgres::dead_letters::{Ended, Letter, encode_fields};
use crate::postgres::rebuild::Decision;
use crate::redis::rebuild::ClaimsHash;

/// One coupon's differences.
#[derive(Default)]
pub struct Plan {
    /// Fields of the claims hash to delete.
    pub delete: Vec<Bytes>,
    /// Claims to put into it.
    pub set: Vec<(UserId, OrderId)>,
    /// Kept orders that have neither row nor entry.
    pub resend: Vec<(UserId, OrderId)>,
    /// Units held once the changes are applied.
    pub held: usize,
    /// Claims and events that ended as rejected orders.
    pub rejected: usize,
    /// Live orders that were cancelled.
    pub cancelled: Vec<OrderId>,
    /// Live orders that Redis did not hold, and that may have ended: they stand.
    pub unheld: Vec<OrderId>,
}

/// How far Redis is believed where Postgres has lost commits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trust {
    /// Its claims hash adds up, and is believed over events.
    pub is_believed: bool,
    /// It cannot be behind Postgres either: what it does not hold has ended.
    pub may_cancel: bool,
}

/// For each user: the live order in Postgres, else the claim without a row, else an event without a row.
///
/// Where Postgres has lost commits, Redis is the one to be believed: events that the claims hash does not hold lose,
/// and before that live orders that it does not hold are cancelled. A Redis that may be behind Postgres cancels only
/// those whose user holds a newer claim: he could not have made it while the order lived.
pub async fn decide_coupon(
    decision: &mut Decision<'_>,
    epoch: &str,
    coupon: &CouponId,
    hash: ClaimsHash,
    events: &[(String, OrderEvent)],
    trust: Trust,
) -> anyhow::Result<Plan> {
    let redis_is_believed = trust.is_believed;
    let mut plan = Plan { delete: hash.strangers.into_iter().collect(), ..Plan::default() };
    let LiveOrders { live, claims } =
        live_orders(decision, coupon, hash.claims, events, trust, &mut plan).await?;
    let suspects: Vec<OrderId> =
        events.iter().map(|(_, event)| event.order).chain(claims.values().copied()).collect();
    let with_row = decision.with_row(&suspects).await?;
    let entries: HashSet<OrderId> = events.iter().map(|(_, event)| event.order).collect();

    let mut kept: HashMap<UserId, OrderId> = HashMap::new();
    for (user, &order) in claims.iter().filter(|(user, _)| !live.contains_key(*user)) {
        if !with_row.contains(&order) {
            kept.insert(user.clone(), order);
        }
    }
    for (_, event) in events.iter().filter(|_| !redis_is_believed) {
        if !live.contains_key(&event.user) && !with_row.contains(&event.order) {
            kept.entry(event.user.clone()).or_insert(event.order);
        }
    }
    plan.rejected = reject_losers(decision, epoch, coupon, &claims, events, &with_row, |user, order| {
        live.get(user).or_else(|| kept.get(user)) == Some(&order)
    })
    .await?;

    plan.held += kept.len();
    let added = kept.iter().filter(|(user, order)| claims.get(*user) != Some(*order));
    plan.set.extend(added.map(|(user, &order)| (user.clone(), order)));
    let dead = claims.keys().filter(|user| !live.contains_key(*user) && !kept.contains_key(*user));
    plan.delete.extend(dead.map(|user| Bytes::copy_from_slice(user.as_str().as_bytes())));
    plan.resend = kept.into_iter().filter(|(_, order)| !entries.contains(order)).collect();
    Ok(plan)
}

/// What is left to decide about once every live order has met its claim.
struct LiveOrders {
    /// Live orders of the users of whom there is a claim or an event left.
    live: HashMap<UserId, OrderId>,
    /// Claims that are no live order's.
    claims: HashMap<UserId, OrderId>,
}

/// Counts the live orders as held and plans claims for those that have none; a claim is forgotten as soon as
/// it has met its order, for there may be millions.
async fn live_orders(
    decision: &mut Decision<'_>,
    coupon: &CouponId,
    mut claims: HashMap<UserId, OrderId>,
    events: &[(String, OrderEvent)],
    trust: Trust,
    plan: &mut Plan,
) -> anyhow::Result<LiveOrders> {
    let with_event: HashSet<&str> = events.iter().map(|(_, event)| event.user.as_str()).collect();
    let mut live = HashMap::new();
    let mut doubtful = Vec::new();
    decision
        .visit_live_orders(coupon, |name, order| {
            // A row that the API could not have made holds its unit in Postgres only.
            let Ok(user) = name.parse::<UserId>() else { return };
            let claim = claims.get(name).copied();
            if trust.is_believed && claim != Some(order) {
                doubtful.push((user, order));
                return;
            }
            plan.held += 1;
            if claim == Some(order) {
                claims.remove(name);
            } else {
                plan.set.push((user.clone(), order));
            }
            if (claim.is_some() && claim != Some(order)) || with_event.contains(name) {
                live.insert(user, order);
            }
        })
        .await?;
    let rivals: Vec<OrderId> = doubtful.iter().filter_map(|(user, _)| claims.get(user).copied()).collect();
    let recorded = decision.with_row(&rivals).await?;
    for (user, order) in doubtful {
        let newer = claims.get(&user).filter(|claim| !recorded.contains(claim) && is_newer(**claim, order));
        if trust.may_cancel || newer.is_some() {
            plan.cancelled.push(order);
        } else {
            plan.held += 1;
            plan.unheld.push(order);
            plan.set.push((user.clone(), order));
            live.insert(user, order);
        }
    }
    if !plan.cancelled.is_empty() {
        decision.cancel(coupon, &plan.cancelled).await?;
    }
    Ok(LiveOrders { live, claims })
}

/// By the times inside the ids; an order that has none was not made by the API.
fn is_newer(claim: OrderId, order: OrderId) -> bool {
    claim.claimed_at().zip(order.claimed_at()).is_some_and(|(claimed, ordered)| claimed > ordered)
}

/// Claims and events without a row that lost to another order of their user end as `rejected`.
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
    // Events first: their letters carry the entry.
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
        if decision.reject(epoch, &event, &letter).await? == Ended::Fenced {
            bail!(NEWER);
        }
    }
    Ok(seen.len())
}
